// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! Texts of others, as far as they may go to a terminal or into a picture.

use std::path::Path;

/// The text without control characters.
pub fn text(text: &str) -> String {
    beginning(text, usize::MAX)
}

/// No more of it than so many characters.
pub fn beginning(text: &str, most: usize) -> String {
    let shown = text.chars().filter(|c| !c.is_control());
    shown.take(most).collect()
}

/// The same of a path.
pub fn path(path: &Path) -> String {
    text(&path.to_string_lossy())
}
