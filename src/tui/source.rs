//! Where events come from: the run of this process, a growing log, or a finished one played again.
