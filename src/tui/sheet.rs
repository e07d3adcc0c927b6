//! Numbers and words of a panel as rows with named columns, for files. Long ones are made row by row while they are
//! written, so that the files of a long run cost no memory.

use std::io::{self, Write};

use serde_json::Value;

/// Takes one row after the other, with one value for each column; null for none.
type Take<'t> = dyn FnMut(&[Value]) -> io::Result<()> + 't;

/// Gives all rows, anew with every call.
type Make<'a> = dyn Fn(&mut Take<'_>) -> io::Result<()> + 'a;

/// Rows of the same columns.
#[derive(Default)]
pub struct Sheet<'a> {
    /// Names of the columns.
    pub columns: Vec<String>,
    rows: Vec<Vec<Value>>,
    /// Rows after those.
    more: Option<Box<Make<'a>>>,
}

impl<'a> Sheet<'a> {
    /// No rows yet.
    pub fn new(columns: &[&str]) -> Self {
        Self { columns: columns.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }

    /// Rows that `make` gives one after the other, as often as it is asked.
    pub fn made(columns: &[&str], make: impl Fn(&mut Take<'_>) -> io::Result<()> + 'a) -> Self {
        Self { more: Some(Box::new(make)), ..Self::new(columns) }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, values: [Value; N]) {
        self.add(values.into());
    }

    /// Adds a row of as many values as there are columns.
    pub fn add(&mut self, values: Vec<Value>) {
        self.rows.push(values);
    }

    /// Goes through the rows.
    ///
    /// Errors: the first of `take`.
    pub fn each(&self, take: &mut Take<'_>) -> io::Result<()> {
        self.rows.iter().try_for_each(|row| take(row))?;
        self.more.as_ref().map_or(Ok(()), |make| make(take))
    }

    /// Writes it as text with commas; what holds a comma, a quote or a line's end stands in quotes.
    pub fn write_csv(&self, out: &mut dyn Write) -> io::Result<()> {
        line(out, self.columns.iter(), |out, name| out.write_all(quoted(name).as_bytes()))?;
        self.each(&mut |row| {
            line(out, row.iter(), |out, value| match value {
                Value::Null => Ok(()),
                Value::String(words) => out.write_all(quoted(words).as_bytes()),
                other => Ok(serde_json::to_writer(out, other)?),
            })
        })
    }

    /// Writes it as an array with one object for each row.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut names = Vec::new();
        for name in &self.columns {
            names.push(serde_json::to_string(name)?);
        }
        let mut before = "[";
        self.each(&mut |row| {
            out.write_all(before.as_bytes())?;
            before = ",\n";
            for (place, (name, value)) in names.iter().zip(row).enumerate() {
                out.write_all(if place == 0 { b"{" } else { b"," })?;
                out.write_all(name.as_bytes())?;
                out.write_all(b":")?;
                serde_json::to_writer(&mut *out, value)?;
            }
            out.write_all(b"}")
        })?;
        out.write_all(if before == "[" { b"[]\n" } else { b"]\n" })
    }
}

fn line<T>(
    out: &mut dyn Write,
    cells: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut dyn Write, T) -> io::Result<()>,
) -> io::Result<()> {
    for (place, cell) in cells.enumerate() {
        if place > 0 {
            out.write_all(b",")?;
        }
        write(out, cell)?;
    }
    out.write_all(b"\n")
}

fn quoted(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\"")).into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(sheet: &Sheet<'_>) -> (String, String) {
        let (mut csv, mut json) = (Vec::new(), Vec::new());
        sheet.write_csv(&mut csv).unwrap();
        sheet.write_json(&mut json).unwrap();
        (String::from_utf8(csv).unwrap(), String::from_utf8(json).unwrap())
    }

    #[test]
    fn rows_become_lines_and_objects() {
        let mut sheet = Sheet::new(&["step", "what"]);
        assert_eq!(both(&sheet), ("step,what\n".into(), "[]\n".into()));
        sheet.row([1.into(), "a \"b\", c".into()]);
        sheet.row([Value::Null, 2.5.into()]);
        let (csv, json) = both(&sheet);
        assert_eq!(csv, "step,what\n1,\"a \"\"b\"\", c\"\n,2.5\n");
        let wanted =
            serde_json::json!([{"step": 1, "what": "a \"b\", c"}, {"step": null, "what": 2.5}]);
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), wanted);
        assert_eq!(json.lines().count(), 2, "a row is a line");
    }

    #[test]
    fn rows_that_are_made_are_those_that_are_held() {
        let rows: Vec<Vec<Value>> = (0..3).map(|row| vec![row.into(), "x,y".into()]).collect();
        let mut held = Sheet::new(&["a,b", "c\"d"]);
        for row in &rows {
            held.add(row.clone());
        }
        let made = Sheet::made(&["a,b", "c\"d"], |take| rows.iter().try_for_each(|row| take(row)));
        assert_eq!(both(&held), both(&made));
        let mut taken = 0;
        let stopped = made.each(&mut |_| {
            taken += 1;
            if taken == 2 { Err(io::Error::other("full")) } else { Ok(()) }
        });
        assert!(stopped.is_err() && taken == 2, "a full disk ends it");
    }
}
