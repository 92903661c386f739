//! What commands print.

use std::io::{self, Write};

use time::OffsetDateTime;

/// Prints `text` and a line end. A reader that has gone away, such as `head`, is no error.
pub(super) fn print(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Columns under a head line, as wide as they have to be.
pub(super) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|text| text.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut lines = vec![line(&head, &widths)];
    lines.extend(rows.iter().map(|row| line(&row.each_ref().map(String::as_str), &widths)));
    lines.join("\n")
}

/// Names and values, one below the other.
pub(super) fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect();
    lines.join("\n")
}

/// A time for people: UTC, to the minute.
pub(super) fn minute(time: OffsetDateTime) -> String {
    format!("{} {:02}:{:02}", time.date(), time.hour(), time.minute())
}

/// A text that may be missing.
pub(super) fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".to_owned(), |text| text.to_string())
}

fn line(cells: &[&str], widths: &[usize]) -> String {
    let padded: Vec<_> = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
    padded.join("  ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [["dev-1".to_owned(), "x".to_owned()], ["d".to_owned(), "yy".to_owned()]];
        assert_eq!(table(["ID", "STATE"], &rows), "ID     STATE\ndev-1  x\nd      yy");
    }
}
