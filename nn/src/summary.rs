//! What a model consists of: layers, shapes, parameters, multiply-adds, bytes.

use std::fmt;

use tilegrad_engine::{Dtype, Result};
use tilegrad_kernels::elements;

use crate::module::{LayerRow, Module, Role};

/// One row a layer, and totals, for an input of a given shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Shape of the input, batch first.
    pub input_shape: Vec<usize>,
    /// Shape of the result.
    pub output_shape: Vec<usize>,
    /// The layers, in the order in which they run.
    pub rows: Vec<LayerRow>,
    /// Trained elements.
    pub parameters: usize,
    /// Elements of state that is not trained: running statistics, frozen weights.
    pub state: usize,
    /// Multiply-adds of all convolutions and products. Batch normalisation, pooling and activations
    /// are not counted.
    pub multiply_adds: u64,
    /// Bytes an element.
    pub element_bytes: usize,
}

impl Summary {
    /// Describes `model` for inputs of `input_shape` and elements of `dtype`. Computes nothing.
    pub fn new(model: &dyn Module, input_shape: &[usize], dtype: Dtype) -> Result<Self> {
        let mut rows = Vec::new();
        let output_shape = model.describe("", input_shape, &mut rows)?;
        let mut state = 0;
        model.visit("", &mut |_, parameter| {
            if parameter.role() == Role::State {
                state += elements(&parameter.shape());
            }
        });
        Ok(Summary {
            input_shape: input_shape.to_vec(),
            output_shape,
            parameters: rows.iter().map(|row| row.parameters).sum(),
            state,
            multiply_adds: rows.iter().map(|row| row.multiply_adds).sum(),
            element_bytes: dtype.size(),
            rows,
        })
    }

    /// Bytes of the input.
    pub fn input_bytes(&self) -> usize {
        elements(&self.input_shape) * self.element_bytes
    }

    /// Bytes of trained parameters.
    pub fn parameter_bytes(&self) -> usize {
        self.parameters * self.element_bytes
    }

    /// Bytes of all layers' results in one forward pass (a flatten shares its input's memory and is
    /// not counted).
    pub fn activation_bytes(&self) -> usize {
        let rows = self.rows.iter().filter(|row| row.kind != "Flatten");
        rows.map(|row| elements(&row.out_shape)).sum::<usize>() * self.element_bytes
    }
}

/// `272474` as `272,474`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit.
fn sized(bytes: usize) -> String {
    match bytes as f64 {
        b if b < 1024.0 => format!("{bytes} B"),
        b if b < 1024.0 * 1024.0 => format!("{:.1} KiB", b / 1024.0),
        b => format!("{:.2} MiB", b / (1024.0 * 1024.0)),
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dash = |n: u64| if n == 0 { "--".to_string() } else { grouped(n) };
        let mut table = vec![
            ["Layer", "Type", "Output shape", "Parameters", "Multiply-adds", "Output"]
                .map(str::to_string),
        ];
        for row in &self.rows {
            table.push([
                row.name.clone(),
                row.kind.clone(),
                format!("{:?}", row.out_shape),
                dash(row.parameters as u64),
                dash(row.multiply_adds),
                sized(elements(&row.out_shape) * self.element_bytes),
            ]);
        }
        let mut widths = [0; 6];
        for line in &table {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * (widths.len() - 1));
        for (i, [name, kind, shape, count, multiply_adds, bytes]) in table.iter().enumerate() {
            let [a, b, c, d, e, g] = widths;
            write!(f, "{name:<a$}  {kind:<b$}  {shape:<c$}  ")?;
            writeln!(f, "{count:>d$}  {multiply_adds:>e$}  {bytes:>g$}")?;
            if i == 0 {
                writeln!(f, "{rule}")?;
            }
        }
        writeln!(f, "{rule}")?;
        writeln!(f, "Input            {:?}, {}", self.input_shape, sized(self.input_bytes()))?;
        writeln!(
            f,
            "Parameters       {} trained ({}), {} of running statistics and frozen",
            grouped(self.parameters as u64),
            sized(self.parameter_bytes()),
            grouped(self.state as u64)
        )?;
        writeln!(f, "Multiply-adds    {}", grouped(self.multiply_adds))?;
        write!(f, "Activations      {} in one forward pass", sized(self.activation_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_groups() {
        assert_eq!(
            ["0", "12", "123", "1,234", "1,234,567"],
            [0, 12, 123, 1234, 1234567].map(grouped).map(|s| s.leak() as &str)
        );
        assert_eq!(sized(1536), "1.5 KiB");
    }
}
