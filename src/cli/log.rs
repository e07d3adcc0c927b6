//! Where warnings go: to stderr, and while a run trains to its `log.txt` as well, there with more detail.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::error::{Error, Result};

/// The file of the run that this process trains; of several that of the one whose turn it is.
static RUN_LOG: Mutex<Option<Arc<File>>> = Mutex::new(None);

/// Writes to the run's file where there is one.
struct RunLog;

impl<'a> MakeWriter<'a> for RunLog {
    type Writer = RunLogWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        RunLogWriter(RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One line's access to the run's file.
struct RunLogWriter<'a>(MutexGuard<'a, Option<Arc<File>>>);

impl Write for RunLogWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.as_mut() {
            Some(file) => file.as_ref().write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), |file| file.as_ref().flush())
    }
}

/// Lines as those of a run are: `warning the words`. Words that were just said are not said again.
#[derive(Default)]
struct Words {
    last: Mutex<String>,
}

impl<S, N> FormatEvent<S, N> for Words
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let word = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => "note",
        };
        let mut text = String::new();
        context.field_format().format_fields(Writer::new(&mut text), event)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            writeln!(writer, "{word:<8}{text}")?;
            *last = text;
        }
        Ok(())
    }
}

/// Starts logging: warnings to stderr (`FULLRANK_LOG` sets another level), more to the run's file.
pub fn start() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .with_env_var("FULLRANK_LOG")
        .from_env_lossy();
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .event_format(Words::default())
        .with_filter(filter);
    let file = tracing_subscriber::fmt::layer()
        .with_writer(RunLog)
        .with_ansi(false)
        .with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(stderr).with(file).init();
}

/// Sends the log of this process to a run's `log.txt` from here on, behind what stands there.
pub fn to_run(path: &Path) -> Result<()> {
    to(Some(open(path)?));
    Ok(())
}

/// Opens a run's `log.txt` for [`to`].
pub fn open(path: &Path) -> Result<Arc<File>> {
    let file =
        OpenOptions::new().create(true).append(true).open(path).map_err(Error::io("open", path))?;
    Ok(Arc::new(file))
}

/// Sends the log of this process to a file from here on; `None`: to stderr alone.
pub fn to(file: Option<Arc<File>>) {
    *RUN_LOG.lock().unwrap_or_else(PoisonError::into_inner) = file;
}
