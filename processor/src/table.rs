//! How tables look that people read in a terminal.

use comfy_table::{LineStyle, TableStyle};

/// A line under the header, and none besides.
pub(crate) const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));
