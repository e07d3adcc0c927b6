//! Charts, heat maps and bars over a buffer of cells. They know no run: they take numbers and draw.
//!
//! | module | what |
//! |---|---|
//! | [`chart`] | lines over axes, with signs, marks and a cursor |
//! | [`axis`] | ranges, ticks and their names |
//! | [`canvas`] | dots finer than cells |
//! | [`heat`], [`table`] | cells in shades; rows and columns of text |
//! | [`panel`] | the frame around a part of a view |
//! | [`bars`], [`spark`] | horizontal bars; a row of numbers in one line |
//! | [`pen`], [`signs`] | text into an area; what every sign becomes in ASCII |

pub mod axis;
pub mod bars;
pub mod canvas;
pub mod chart;
pub mod heat;
pub mod panel;
pub mod pen;
pub mod signs;
pub mod spark;
pub mod table;

pub use axis::AxisRange;
pub use chart::{Chart, Line, Symbol, dots};
pub use panel::Panel;
pub use pen::Pen;
