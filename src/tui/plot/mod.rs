//! Charts, heat maps and bars over a buffer of cells. They know no run: they take numbers and draw.

pub mod heat;
pub mod table;
