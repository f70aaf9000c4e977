//! Which algorithm computes a convolution.
//!
//! Measured, not reasoned: `choice.txt` holds the times of every algorithm on a grid of sizes, and a
//! convolution takes what was better at the nearest point of the grid. `cargo bench --bench
//! conv_choice -- --write` makes the file anew on the machine at hand.
//!
//! The choice depends on sizes and dtype alone, never on threads or load, so that it cannot change
//! the bits of a result from run to run.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::{ConvAlgorithm, OP, winograd};
use crate::{Conv2dArgs, Dtype, Error, Result};

/// Winograd's error is several times that of `direct`: it must at least save a tenth of the time.
const WORTH: f64 = 0.9;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConvPass {
    /// y from x and filter.
    Forward,
    /// As `Forward`, with filters that were prepared once.
    Inference,
    /// dx from dy and filter.
    BackwardData,
    /// dfilter from x and dy.
    BackwardFilter,
}

impl ConvPass {
    /// All, in the order of the table.
    pub const ALL: [ConvPass; 4] =
        [ConvPass::Forward, ConvPass::Inference, ConvPass::BackwardData, ConvPass::BackwardFilter];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            ConvPass::Forward => "forward",
            ConvPass::Inference => "inference",
            ConvPass::BackwardData => "backward-data",
            ConvPass::BackwardFilter => "backward-filter",
        }
    }
}

impl fmt::Display for ConvPass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ConvPass {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let named = ConvPass::ALL.into_iter().find(|pass| pass.name() == s);
        named.ok_or_else(|| Error::argument(OP, format!("unknown pass '{s}' of a convolution")))
    }
}

/// What a choice depends on: 3x3 convolutions of stride 1 that Winograd applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    pass: ConvPass,
    dtype: Dtype,
    c_in: usize,
    c_out: usize,
    /// 4x4 pieces of all images of the result.
    tiles: usize,
}

impl Point {
    fn new(pass: ConvPass, dtype: Dtype, args: &Conv2dArgs) -> Point {
        let Conv2dArgs { n, c_in, c_out, oh, ow, .. } = *args;
        Point { pass, dtype, c_in, c_out, tiles: n * oh.div_ceil(4) * ow.div_ceil(4) }
    }

    /// Sum of the octaves between the sizes.
    fn distance(&self, other: &Point) -> f64 {
        let octaves = |a: usize, b: usize| (a as f64 / b as f64).log2().abs();
        octaves(self.c_in, other.c_in)
            + octaves(self.c_out, other.c_out)
            + octaves(self.tiles, other.tiles)
    }
}

/// A line of the table.
struct Row {
    point: Point,
    better: ConvAlgorithm,
}

impl FromStr for Row {
    type Err = String;

    /// `pass dtype c_in c_out tiles µs-direct µs-winograd`
    fn from_str(line: &str) -> std::result::Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [pass, dtype, c_in, c_out, tiles, direct, winograd] = words[..] else {
            return Err(format!("7 columns expected: {line}"));
        };
        let size = |word: &str| match word.parse::<usize>() {
            Ok(size) if size > 0 => Ok(size),
            _ => Err(format!("'{word}' is no size: {line}")),
        };
        let time = |word: &str| word.parse::<f64>().map_err(|e| format!("'{word}': {e}: {line}"));
        let dtype = [Dtype::F32, Dtype::BF16].into_iter().find(|d| d.name() == dtype);
        let point = Point {
            pass: pass.parse().map_err(|e: Error| e.to_string())?,
            dtype: dtype.ok_or_else(|| format!("f32 or bf16 expected: {line}"))?,
            c_in: size(c_in)?,
            c_out: size(c_out)?,
            tiles: size(tiles)?,
        };
        let better = match time(winograd)? < WORTH * time(direct)? {
            true => ConvAlgorithm::Winograd,
            false => ConvAlgorithm::Direct,
        };
        Ok(Row { point, better })
    }
}

fn parse(text: &str) -> std::result::Result<Vec<Row>, String> {
    text.lines().filter(|line| !line.starts_with('#')).map(str::parse).collect()
}

static TABLE: LazyLock<Vec<Row>> =
    LazyLock::new(|| parse(include_str!("choice.txt")).expect("the table has a test"));

/// The algorithm that `rows` have for `point`.
fn better(rows: &[Row], point: &Point) -> ConvAlgorithm {
    let same = |row: &&Row| (row.point.pass, row.point.dtype) == (point.pass, point.dtype);
    let distance = |row: &&Row| row.point.distance(point);
    let nearest = rows.iter().filter(same).min_by(|a, b| distance(a).total_cmp(&distance(b)));
    nearest.map_or(ConvAlgorithm::Direct, |row| row.better)
}

/// Which algorithm was taken for what, so far.
#[derive(Default)]
pub struct Choices(Mutex<HashMap<(ConvPass, Dtype, Conv2dArgs), ConvAlgorithm>>);

impl Choices {
    /// The algorithm for one pass over `args`: the `forced` one where it applies, or the table's.
    pub fn choose(
        &self,
        forced: Option<ConvAlgorithm>,
        pass: ConvPass,
        dtype: Dtype,
        args: &Conv2dArgs,
    ) -> ConvAlgorithm {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *made.entry((pass, dtype, *args)).or_insert_with(|| match forced {
            _ if !winograd::applies(args) => ConvAlgorithm::Direct,
            Some(forced) => forced,
            None => better(&TABLE, &Point::new(pass, dtype, args)),
        })
    }

    /// A line each, sorted: `conv2d forward f32 [128, 32, 32, 16] -> [128, 32, 32, 16] 3x3: winograd`.
    pub fn lines(&self) -> Vec<String> {
        let made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut made: Vec<_> = made.iter().collect();
        made.sort_by_key(|((pass, dtype, a), _)| {
            let sizes = [a.n, a.c_in, a.c_out, a.h, a.w, a.oh, a.ow, a.kh, a.kw];
            (*pass, dtype.name(), std::cmp::Reverse((a.h, a.w)), sizes)
        });
        let line = |((pass, dtype, a), algorithm): (&(_, Dtype, Conv2dArgs), &ConvAlgorithm)| {
            let (x, y) = ([a.n, a.h, a.w, a.c_in], a.y_shape());
            format!("conv2d {pass} {} {x:?} -> {y:?} {}x{}: {algorithm}", dtype.name(), a.kh, a.kw)
        };
        made.into_iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Conv2dOptions;

    fn args(c: usize, kernel: usize) -> Conv2dArgs {
        let options = Conv2dOptions { padding: [kernel / 2; 2], ..Conv2dOptions::default() };
        Conv2dArgs::new(&[128, 32, 32, c], &[64, kernel, kernel, c], options).unwrap()
    }

    #[test]
    fn the_table_has_times_for_every_pass_and_dtype() {
        let rows = parse(include_str!("choice.txt")).unwrap();
        for pass in ConvPass::ALL {
            for dtype in [Dtype::F32, Dtype::BF16] {
                let of = |row: &&Row| (row.point.pass, row.point.dtype) == (pass, dtype);
                assert!(rows.iter().filter(of).count() >= 20, "{pass} {}", dtype.name());
            }
        }
        for line in ["forward f32 16 16 64 1", "up f32 16 16 64 1 2", "forward f32 16 0 64 1 2"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn the_nearest_point_decides() {
        let rows = parse("forward f32 8 8 64 10 20\nforward f32 64 64 64 20 10").unwrap();
        let point = |c| Point { c_in: c, c_out: c, ..rows[0].point };
        let nearest = |c| better(&rows, &point(c));
        assert_eq!([nearest(16), nearest(32)], [ConvAlgorithm::Direct, ConvAlgorithm::Winograd]);
    }

    #[test]
    fn forced_where_it_applies_and_logged() {
        let choices = Choices::default();
        let choose =
            |forced, args: &Conv2dArgs| choices.choose(forced, ConvPass::Forward, Dtype::F32, args);
        assert_eq!(choose(Some(ConvAlgorithm::Winograd), &args(3, 3)), ConvAlgorithm::Winograd);
        assert_eq!(choose(Some(ConvAlgorithm::Winograd), &args(3, 1)), ConvAlgorithm::Direct);
        assert_eq!(choose(Some(ConvAlgorithm::Direct), &args(64, 3)), ConvAlgorithm::Direct);
        assert_eq!(
            choices.lines(),
            [
                "conv2d forward f32 [128, 32, 32, 3] -> [128, 32, 32, 64] 1x1: direct",
                "conv2d forward f32 [128, 32, 32, 3] -> [128, 32, 32, 64] 3x3: winograd",
                "conv2d forward f32 [128, 32, 32, 64] -> [128, 32, 32, 64] 3x3: direct",
            ]
        );
    }
}
