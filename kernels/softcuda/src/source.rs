//! Lines of the program that PTX was compiled from: the `.file` and `.loc` directives, which NVRTC and nvcc write when
//! they are given `-lineinfo`.

use std::collections::HashMap;

/// Which source line each line of PTX comes from.
#[derive(Debug, Default)]
pub struct SourceLines {
    files: HashMap<u64, String>,
    /// Line of PTX, and from there on: file and line of the source, file 0 for none. In order of PTX.
    starts: Vec<(u32, u64, u32)>,
}

impl SourceLines {
    /// `.file index "path"`; folders do not matter.
    pub fn file(&mut self, index: u64, path: &str) {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.files.insert(index, name.to_string());
    }

    /// `.loc file line column` at a line of PTX.
    pub fn start(&mut self, ptx_line: u32, file: u64, line: u32) {
        self.starts.push((ptx_line, file, line));
    }

    /// A function begins: what was said of the one before does not hold for it.
    pub fn end(&mut self, ptx_line: u32) {
        self.start(ptx_line, 0, 0);
    }

    /// File and line that a line of PTX comes from, if it is known.
    pub fn find(&self, ptx_line: u32) -> Option<(String, u32)> {
        let after = self.starts.partition_point(|&(start, ..)| start <= ptx_line);
        let &(_, file, line) = self.starts.get(after.checked_sub(1)?)?;
        Some((self.files.get(&file)?.clone(), line))
    }

    /// A line of PTX in words, with its source if that is known.
    pub fn describe(&self, ptx_line: u32) -> String {
        match self.find(ptx_line) {
            Some((file, line)) => format!("line {ptx_line} ({file}:{line})"),
            None => format!("line {ptx_line}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_belongs_to_the_last_directive_above_it_in_its_function() {
        let mut lines = SourceLines::default();
        lines.file(1, "/somewhere/a.cu");
        lines.end(10);
        lines.start(12, 1, 5);
        lines.start(15, 1, 7);
        lines.end(20);
        let found = |line| lines.find(line).map(|(file, line)| format!("{file}:{line}"));
        assert_eq!([9, 11, 20, 30].map(found), [const { None }; 4]);
        assert_eq!(
            [12, 14, 15, 19].map(|l| found(l).unwrap()),
            ["a.cu:5", "a.cu:5", "a.cu:7", "a.cu:7"]
        );
        assert_eq!(lines.describe(13), "line 13 (a.cu:5)");
        assert_eq!(lines.describe(9), "line 9");
    }
}
