//! Functions of two inputs whose shapes broadcast.
//!
//! Axes that repeat alike are merged, so that any pair of shapes becomes rows over a last axis on
//! which each input is either a run of elements or one repeated element:
//!
//! ```text
//!   [N, H, W, C] op [N, H, W, C]   1 row,          a and b runs
//!   [N, H, W, C] op []             1 row,          a a run, b one element
//!   [N, H, W, C] op [C]            N H W rows,     a and b runs; b stays where it is  (bias)
//!   [N, C]       op [N, 1]         N rows,         a a run, b one element a row
//! ```

use super::elementwise::unary_forward;
use super::simd::{Kernel, Vector};
use super::threads::TASK_ELEMENTS;
use super::tiles::{TILE, repeat, run_width};
use super::{Cpu, reduce};
use crate::*;

/// A function of two inputs and the gradients of both, on one element.
trait Function: Copy + Sync {
    /// a op b
    fn value(self, a: f32, b: f32) -> f32;
    /// Gradient of a.
    fn gradient_a(self, a: f32, b: f32, dy: f32) -> f32;
    /// Gradient of b.
    fn gradient_b(self, a: f32, b: f32, dy: f32) -> f32;
}

macro_rules! function {
    ($name:ident, |$a:ident, $b:ident, $dy:ident|
     $value:expr, $gradient_a:expr, $gradient_b:expr) => {
        #[derive(Clone, Copy)]
        struct $name;

        #[allow(unused_variables)]
        impl Function for $name {
            #[inline(always)]
            fn value(self, $a: f32, $b: f32) -> f32 {
                $value
            }
            #[inline(always)]
            fn gradient_a(self, $a: f32, $b: f32, $dy: f32) -> f32 {
                $gradient_a
            }
            #[inline(always)]
            fn gradient_b(self, $a: f32, $b: f32, $dy: f32) -> f32 {
                $gradient_b
            }
        }
    };
}

function!(Add, |a, b, dy| a + b, dy, dy);
function!(Sub, |a, b, dy| a - b, dy, -dy);
function!(Mul, |a, b, dy| a * b, dy * b, dy * a);
function!(Div, |a, b, dy| a / b, dy / b, -dy * (a / b) / b);
function!(Max, |a, b, dy| nan_max(a, b), share(a, b, dy), share(b, a, dy));

/// The larger; NaN if either is.
#[inline(always)]
pub fn nan_max(a: f32, b: f32) -> f32 {
    if (b > a) | b.is_nan() { b } else { a } // a stays if it is NaN: nothing is above it
}

/// a > b, where NaN is above every number.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord)] // "not below or equal" holds for NaN too
pub fn larger(a: f32, b: f32) -> bool {
    !(a <= b) & !b.is_nan()
}

/// What reaches `this` of the gradient of max(this, other): all, half at a tie, nothing.
#[inline(always)]
fn share(this: f32, other: f32, dy: f32) -> f32 {
    let at_most_half = if larger(other, this) { 0.0 } else { 0.5 * dy };
    if larger(this, other) { dy } else { at_most_half }
}

/// Evaluates `$body` with `$f` bound to the [`Function`] of `$op`.
macro_rules! with_function {
    ($op:expr, $f:ident => $body:expr) => {
        match $op {
            Binary::Add => with_function!(@ $f = Add, $body),
            Binary::Sub => with_function!(@ $f = Sub, $body),
            Binary::Mul => with_function!(@ $f = Mul, $body),
            Binary::Div => with_function!(@ $f = Div, $body),
            Binary::Max => with_function!(@ $f = Max, $body),
        }
    };
    (@ $f:ident = $function:ident, $body:expr) => {{
        let $f = $function;
        $body
    }};
}

/// Merged axes of the result, and how many elements of each input a step along them skips.
#[derive(Debug, PartialEq)]
struct Plan {
    sizes: Vec<usize>,
    a: Vec<usize>,
    b: Vec<usize>,
}

impl Plan {
    fn new(args: &BroadcastArgs) -> Plan {
        // (size, a moves, b moves), axes of size 1 left out, equal neighbours merged.
        let mut axes: Vec<(usize, bool, bool)> = Vec::new();
        for ((&size, &a), &b) in args.out.iter().zip(&args.a).zip(&args.b) {
            match axes.last_mut() {
                _ if size == 1 => {}
                Some(last) if (last.1, last.2) == (a != 1, b != 1) => last.0 *= size,
                _ => axes.push((size, a != 1, b != 1)),
            }
        }
        if axes.is_empty() {
            axes.push((1, true, true));
        }
        let strides = |moves: &dyn Fn(&(usize, bool, bool)) -> bool| {
            let mut stride = 1;
            let mut strides: Vec<usize> = axes
                .iter()
                .rev()
                .map(|axis| {
                    let here = if moves(axis) { stride } else { 0 };
                    stride *= if moves(axis) { axis.0 } else { 1 };
                    here
                })
                .collect();
            strides.reverse();
            strides
        };
        let (a, b) = (strides(&|axis| axis.1), strides(&|axis| axis.2));
        Plan { sizes: axes.iter().map(|axis| axis.0).collect(), a, b }
    }

    /// Length of the last axis.
    fn inner(&self) -> usize {
        self.sizes[self.sizes.len() - 1]
    }

    /// Whether a row of each input is a run.
    fn runs(&self) -> (bool, bool) {
        (self.a[self.a.len() - 1] == 1, self.b[self.b.len() - 1] == 1)
    }

    /// Elements of a task: whole rows, or parts of the only row.
    fn piece(&self) -> usize {
        match self.inner() {
            inner if inner <= TASK_ELEMENTS => (TASK_ELEMENTS / inner.max(1)).max(1) * inner,
            _ if self.sizes.len() == 1 => TASK_ELEMENTS,
            inner => inner,
        }
    }

    /// Where the part of each input lies that element `start` of the result is made from. `start`
    /// is the beginning of a row, or lies in the only row.
    fn offsets(&self, start: usize) -> (usize, usize) {
        let (mut rest, mut a, mut b) = (start, 0, 0);
        for ((&size, &step_a), &step_b) in self.sizes.iter().zip(&self.a).zip(&self.b).rev() {
            let index = rest % size;
            rest /= size;
            a += index * step_a;
            b += index * step_b;
        }
        (a, b)
    }

    /// For a matrix of short rows with one input that repeats along the rows: as [`super::tiles`]
    /// does it, the plan of runs of many rows. The input that repeats must then be repeated to
    /// [`run_width`].
    fn tiled(&self) -> Option<Plan> {
        let (&[rows, c], true) = (&self.sizes[..], self.runs() == (true, true)) else {
            return None;
        };
        if c == 0 || 2 * c > TILE {
            return None;
        }
        let width = run_width(c);
        let outer = |stride: usize| if stride == 0 { 0 } else { width };
        Some(Plan {
            sizes: vec![(rows * c).div_ceil(width), width],
            a: vec![outer(self.a[0]), 1],
            b: vec![outer(self.b[0]), 1],
        })
    }
}

/// What is written for each element of the result.
trait Rule: Copy + Sync {
    /// Whether `dy` is read; otherwise it is given as 0.
    const READS_DY: bool;
    /// The element.
    fn apply(self, a: f32, b: f32, dy: f32) -> f32;
}

macro_rules! rule {
    ($name:ident $(<$f:ident>)?, $reads_dy:expr,
     |$self:ident, $a:ident, $b:ident, $dy:ident| $value:expr) => {
        #[derive(Clone, Copy)]
        struct $name $(<$f>($f))?;

        impl $(<$f: Function>)? Rule for $name $(<$f>)? {
            const READS_DY: bool = $reads_dy;
            #[inline(always)]
            fn apply($self, $a: f32, $b: f32, $dy: f32) -> f32 {
                $value
            }
        }
    };
}

rule!(Value<F>, false, |self, a, b, _dy| self.0.value(a, b));
rule!(GradientA<F>, true, |self, a, b, dy| self.0.gradient_a(a, b, dy));
rule!(GradientB<F>, true, |self, a, b, dy| self.0.gradient_b(a, b, dy));
rule!(First, false, |self, a, _b, _dy| a);
rule!(IsEqual, false, |self, a, b, _dy| if larger(a, b) | larger(b, a) { 0.0 } else { 1.0 });
rule!(SecondWhere, false, |self, a, b, _dy| if a != 0.0 { b } else { 0.0 });

/// Part of the result, from element `start` on.
struct Piece<'a, R> {
    rule: R,
    plan: &'a Plan,
    start: usize,
    a: &'a [f32],
    b: &'a [f32],
    /// As long as `y`, if it is read.
    dy: &'a [f32],
    y: &'a mut [f32],
}

impl<R: Rule> Kernel for Piece<'_, R> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Piece { rule, plan, start, a, b, dy, y } = self;
        let inner = plan.inner();
        // Along the axis before the last one, offsets go in steps; finding them anew needs
        // divisions.
        let axis = plan.sizes.len().saturating_sub(2);
        let (step_a, step_b) = (plan.a[axis], plan.b[axis]);
        let (mut at_a, mut at_b, mut rows_left) = (0, 0, 0);
        for (i, y) in y.chunks_mut(inner).enumerate() {
            if rows_left == 0 {
                (at_a, at_b) = plan.offsets(start + i * inner);
                rows_left = plan.sizes[axis] - (start / inner + i) % plan.sizes[axis];
            } else {
                at_a += step_a;
                at_b += step_b;
            }
            rows_left -= 1;
            let (a, b) = (&a[at_a..], &b[at_b..]);
            let dy = if R::READS_DY { &dy[i * inner..][..y.len()] } else { dy };
            match plan.runs() {
                (true, true) => row(rule, y, Run(a), Run(b), dy),
                (true, false) => row(rule, y, Run(a), One(b[0]), dy),
                (false, true) => row(rule, y, One(a[0]), Run(b), dy),
                (false, false) => row(rule, y, One(a[0]), One(b[0]), dy),
            }
        }
    }
}

/// An input along a row.
trait Operand {
    /// Cut or checked to the length of the row, so that `at` is in bounds.
    fn prepare(self, len: usize) -> Self;
    /// Element `i`.
    fn at(&self, i: usize) -> f32;
}

/// Each element in turn.
struct Run<'a>(&'a [f32]);

/// One element for all.
struct One(f32);

impl Operand for Run<'_> {
    #[inline(always)]
    fn prepare(self, len: usize) -> Self {
        Run(&self.0[..len])
    }
    #[inline(always)]
    fn at(&self, i: usize) -> f32 {
        self.0[i]
    }
}

impl Operand for One {
    #[inline(always)]
    fn prepare(self, _: usize) -> Self {
        self
    }
    #[inline(always)]
    fn at(&self, _: usize) -> f32 {
        self.0
    }
}

#[inline(always)]
fn row<R: Rule>(rule: R, y: &mut [f32], a: impl Operand, b: impl Operand, dy: &[f32]) {
    let (a, b) = (a.prepare(y.len()), b.prepare(y.len()));
    if R::READS_DY {
        for (i, (y, &dy)) in y.iter_mut().zip(dy).enumerate() {
            *y = rule.apply(a.at(i), b.at(i), dy);
        }
    } else {
        for (i, y) in y.iter_mut().enumerate() {
            *y = rule.apply(a.at(i), b.at(i), 0.0);
        }
    }
}

/// Both gradients in one pass, where nothing is broadcast.
struct BothGradients<'a, F> {
    f: F,
    a: &'a [f32],
    b: &'a [f32],
    dy: &'a [f32],
    da: &'a mut [f32],
    db: &'a mut [f32],
}

impl<F: Function> Kernel for BothGradients<'_, F> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let inputs = self.a.iter().zip(self.b).zip(self.dy);
        for ((da, db), ((&a, &b), &dy)) in self.da.iter_mut().zip(self.db).zip(inputs) {
            *da = self.f.gradient_a(a, b, dy);
            *db = self.f.gradient_b(a, b, dy);
        }
    }
}

/// Applies a rule to every element of the result.
fn map<R: Rule>(
    cpu: &Cpu,
    rule: R,
    args: &BroadcastArgs,
    a: &[f32],
    b: &[f32],
    dy: &[f32],
) -> Result<Buffer> {
    let len = elements(&args.out);
    let mut memory = cpu.alloc::<f32>(len)?;
    if len == 0 {
        return Ok(memory.into_buffer::<f32>(0));
    }
    let mut plan = Plan::new(args);
    let (repeated_a, repeated_b);
    let (mut a, mut b) = (a, b);
    if let Some(tiled) = plan.tiled() {
        if tiled.a[0] == 0 {
            repeated_a = repeat(a);
            a = &repeated_a;
        }
        if tiled.b[0] == 0 {
            repeated_b = repeat(b);
            b = &repeated_b;
        }
        plan = tiled;
    }
    let piece = plan.piece();
    cpu.threads.chunks(memory.slice_mut(len), piece, |i, y| {
        let start = i * piece;
        let dy = if R::READS_DY { &dy[start..][..y.len()] } else { dy };
        cpu.isa.run(Piece { rule, plan: &plan, start, a, b, dy, y })
    });
    Ok(memory.into_buffer::<f32>(len))
}

/// y = a op b
pub fn binary_forward(
    cpu: &Cpu,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
) -> Result<Buffer> {
    let a = cpu.read::<f32>(op.name(), a, elements(&args.a))?;
    let b = cpu.read::<f32>(op.name(), b, elements(&args.b))?;
    with_function!(op, f => map(cpu, Value(f), args, a, b, &[]))
}

/// The gradients that are needed, each in the shape of its input.
pub fn binary_backward(
    cpu: &Cpu,
    op: Binary,
    args: &BroadcastArgs,
    a: &Buffer,
    b: &Buffer,
    dy: &Buffer,
    needs: [bool; 2],
) -> Result<[Option<Buffer>; 2]> {
    let name = op.name();
    let (a_data, b_data) = (
        cpu.read::<f32>(name, a, elements(&args.a))?,
        cpu.read::<f32>(name, b, elements(&args.b))?,
    );
    let dy_data = cpu.read::<f32>(name, dy, elements(&args.out))?;
    if args.a == args.b && needs == [true, true] && !matches!(op, Binary::Add | Binary::Sub) {
        let both = with_function!(op, f => both_gradients(cpu, f, a_data, b_data, dy_data))?;
        return Ok(both.map(Some));
    }
    // Of a sum, dy itself is the gradient (shared, not copied), up to its sign.
    let linear = matches!(op, Binary::Add | Binary::Sub);
    let gradient_a = || {
        let full = if linear {
            dy.clone()
        } else {
            with_function!(op, f => map(cpu, GradientA(f), args, a_data, b_data, dy_data))?
        };
        sum_to(cpu, name, &args.out, &args.a, full)
    };
    let gradient_b = || {
        let full = if linear {
            dy.clone()
        } else {
            with_function!(op, f => map(cpu, GradientB(f), args, a_data, b_data, dy_data))?
        };
        let summed = sum_to(cpu, name, &args.out, &args.b, full)?;
        if op == Binary::Sub {
            return unary_forward::<f32>(cpu, Unary::Affine { scale: -1.0, shift: 0.0 }, &summed);
        }
        Ok(summed)
    };
    Ok([needs[0].then(gradient_a).transpose()?, needs[1].then(gradient_b).transpose()?])
}

/// da and db of equal shapes.
fn both_gradients<F: Function>(
    cpu: &Cpu,
    f: F,
    a: &[f32],
    b: &[f32],
    dy: &[f32],
) -> Result<[Buffer; 2]> {
    let len = dy.len();
    let (mut da, mut db) = (cpu.alloc::<f32>(len)?, cpu.alloc::<f32>(len)?);
    cpu.threads.chunks2(
        (da.slice_mut(len), TASK_ELEMENTS),
        (db.slice_mut(len), TASK_ELEMENTS),
        |i, da, db| {
            let piece = i * TASK_ELEMENTS..i * TASK_ELEMENTS + da.len();
            let (a, b, dy) = (&a[piece.clone()], &b[piece.clone()], &dy[piece]);
            cpu.isa.run(BothGradients { f, a, b, dy, da, db })
        },
    );
    Ok([da.into_buffer::<f32>(len), db.into_buffer::<f32>(len)])
}

/// Sums `x` of shape `from` over the axes on which `to` has size 1.
fn sum_to(cpu: &Cpu, op: &'static str, from: &[usize], to: &[usize], x: Buffer) -> Result<Buffer> {
    let reduced: Vec<bool> = from.iter().zip(to).map(|(&from, &to)| from != to).collect();
    if !reduced.contains(&true) {
        return Ok(x);
    }
    let args = ReduceArgs { shape: from.to_vec(), reduced };
    let len = elements(from);
    reduce::reduce(cpu, Reduce::Sum, &args, cpu.read::<f32>(op, &x, len)?)
}

/// x of shape `kept`, repeated to `shape`: sizes of 1 repeat.
pub fn expand(cpu: &Cpu, shape: &[usize], kept: &[usize], x: &[f32]) -> Result<Buffer> {
    let args = BroadcastArgs { out: shape.to_vec(), a: kept.to_vec(), b: kept.to_vec() };
    map(cpu, First, &args, x, x, &[])
}

/// Gradient of a maximum: each x that equals its y gets an equal part of its dy. x has the shape
/// `args.shape`, y and dy the kept shape.
pub fn reduce_max_backward(
    cpu: &Cpu,
    args: &ReduceArgs,
    x: &[f32],
    y: &[f32],
    dy: &[f32],
) -> Result<Buffer> {
    let op = Reduce::Max.name();
    let (shape, kept) = (&args.shape, &args.kept_shape());
    let by_kept = BroadcastArgs { out: shape.clone(), a: shape.clone(), b: kept.clone() };
    let same = BroadcastArgs { out: kept.clone(), a: kept.clone(), b: kept.clone() };
    let is_maximum = map(cpu, IsEqual, &by_kept, x, y, &[])?;
    let is_maximum = cpu.read::<f32>(op, &is_maximum, x.len())?;
    let ties = reduce::reduce(cpu, Reduce::Sum, args, is_maximum)?;
    let part = map(cpu, Value(Div), &same, dy, cpu.read::<f32>(op, &ties, y.len())?, &[])?;
    map(cpu, SecondWhere, &by_kept, is_maximum, cpu.read::<f32>(op, &part, y.len())?, &[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_repeat_alike_are_merged() {
        let plan = |a: &[usize], b: &[usize]| Plan::new(&BroadcastArgs::new("add", a, b).unwrap());
        let same = Plan { sizes: vec![24], a: vec![1], b: vec![1] };
        assert_eq!(plan(&[2, 3, 4], &[2, 3, 4]), same);
        let bias = Plan { sizes: vec![6, 4], a: vec![4, 1], b: vec![0, 1] };
        assert_eq!(plan(&[2, 3, 1, 4], &[4]), bias);
        let outer = Plan { sizes: vec![5, 6], a: vec![1, 0], b: vec![0, 1] };
        assert_eq!(plan(&[5, 1], &[6]), outer);
        assert_eq!(plan(&[], &[1]), Plan { sizes: vec![1], a: vec![1], b: vec![1] });
    }
}
