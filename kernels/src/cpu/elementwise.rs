//! Functions of one input, and in-place addition. Those of two inputs are in [`super::broadcast`].

use super::Cpu;
pub use super::broadcast::{binary_backward, binary_forward};
use super::scalar::Scalar;
use super::simd::{Kernel, Vector, math};
use super::threads::TASK_ELEMENTS;
use crate::*;

/// A function and its derivative, on one element. Branch-free, so that loops over them become SIMD.
trait Function: Copy + Sync {
    /// op(x)
    fn value<V: Vector>(self, x: f32) -> f32;
    /// dy op'(x), where `saved` is x, y or dy as [`Unary::saves`] says.
    fn gradient<V: Vector>(self, saved: f32, dy: f32) -> f32;
}

macro_rules! function {
    ($name:ident $({ $($field:ident),* })?, $vector:ident,
     |$self:ident, $x:ident| $value:expr, |$saved:ident, $dy:ident| $gradient:expr) => {
        #[derive(Clone, Copy)]
        struct $name $({ $($field: f32),* })?;

        impl Function for $name {
            #[inline(always)]
            fn value<$vector: Vector>($self, $x: f32) -> f32 {
                $value
            }
            #[inline(always)]
            fn gradient<$vector: Vector>($self, $saved: f32, $dy: f32) -> f32 {
                $gradient
            }
        }
    };
}

#[derive(Clone, Copy)]
struct Affine {
    scale: f32,
    shift: f32,
}

impl Function for Affine {
    #[inline(always)]
    fn value<V: Vector>(self, x: f32) -> f32 {
        V::scalar_mul_add(self.scale, x, self.shift)
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, _: f32, dy: f32) -> f32 {
        self.scale * dy
    }
}

#[derive(Clone, Copy)]
struct LeakyRelu {
    slope: f32,
}

impl Function for LeakyRelu {
    #[inline(always)]
    fn value<V: Vector>(self, x: f32) -> f32 {
        if x <= 0.0 { self.slope * x } else { x }
    }
    #[inline(always)]
    fn gradient<V: Vector>(self, x: f32, dy: f32) -> f32 {
        if x <= 0.0 { self.slope * dy } else { dy }
    }
}

function!(Exp, V, |self, x| math::exp::<V>(x), |y, dy| dy * y);
function!(Log, V, |self, x| math::log::<V>(x), |x, dy| dy / x);
function!(Sqrt, V, |self, x| x.sqrt(), |y, dy| dy / (y + y));
function!(Tanh, V, |self, x| math::tanh::<V>(x), |y, dy| dy * V::scalar_mul_add(-y, y, 1.0));
function!(Sigmoid, V, |self, x| math::sigmoid::<V>(x), |y, dy| dy * y * (1.0 - y));
function!(Relu, V, |self, x| if x <= 0.0 { 0.0 } else { x }, |y, dy| if y <= 0.0 {
    0.0
} else {
    dy
});
function!(Gelu, V, |self, x| x * math::normal::<V>(x).cdf, |x, dy| {
    let math::Normal { cdf, pdf } = math::normal::<V>(x);
    dy * V::scalar_mul_add(x, pdf, cdf)
});
function!(Silu, V, |self, x| x * math::sigmoid::<V>(x), |x, dy| {
    let s = math::sigmoid::<V>(x);
    dy * s * V::scalar_mul_add(x, 1.0 - s, 1.0)
});

/// Evaluates `$body` with `$f` bound to the [`Function`] of `$op`.
macro_rules! with_function {
    ($op:expr, $f:ident => $body:expr) => {
        match $op {
            Unary::Affine { scale, shift } => {
                let $f = Affine { scale: scale as f32, shift: shift as f32 };
                $body
            }
            Unary::LeakyRelu { slope } => {
                let $f = LeakyRelu { slope: slope as f32 };
                $body
            }
            Unary::Exp => with_function!(@ $f = Exp, $body),
            Unary::Log => with_function!(@ $f = Log, $body),
            Unary::Sqrt => with_function!(@ $f = Sqrt, $body),
            Unary::Tanh => with_function!(@ $f = Tanh, $body),
            Unary::Sigmoid => with_function!(@ $f = Sigmoid, $body),
            Unary::Relu => with_function!(@ $f = Relu, $body),
            Unary::Gelu => with_function!(@ $f = Gelu, $body),
            Unary::Silu => with_function!(@ $f = Silu, $body),
        }
    };
    (@ $f:ident = $function:ident, $body:expr) => {{
        let $f = $function;
        $body
    }};
}

/// y = f(x)
struct Forward<'a, F, T> {
    f: F,
    x: &'a [T],
    y: &'a mut [T],
}

impl<F: Function, T: Scalar> Kernel for Forward<'_, F, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = T::narrow(self.f.value::<V>(x.widen()));
        }
    }
}

/// dx = dy f'
struct Backward<'a, F, T> {
    f: F,
    saved: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<F: Function, T: Scalar> Kernel for Backward<'_, F, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for ((dx, &saved), &dy) in self.dx.iter_mut().zip(self.saved).zip(self.dy) {
            *dx = T::narrow(self.f.gradient::<V>(saved.widen(), dy.widen()));
        }
    }
}

/// into += x
struct Accumulate<'a, T> {
    into: &'a mut [T],
    x: &'a [T],
}

impl<T: Scalar> Kernel for Accumulate<'_, T> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for (into, &x) in self.into.iter_mut().zip(self.x) {
            *into = T::narrow(into.widen() + x.widen());
        }
    }
}

/// y = op(x)
pub fn unary_forward<T: Scalar>(cpu: &Cpu, op: Unary, x: &Buffer) -> Result<Buffer> {
    let len = x.len();
    let x = cpu.read::<T>(op.name(), x, len)?;
    let mut memory = cpu.alloc::<T>(len)?;
    with_function!(op, f => {
        cpu.threads.chunks(memory.slice_mut(len), TASK_ELEMENTS, |i, y| {
            let x = &x[i * TASK_ELEMENTS..][..y.len()];
            cpu.isa.run(Forward { f, x, y })
        })
    });
    Ok(memory.into_buffer::<T>(len))
}

/// dx = dy op'(x)
pub fn unary_backward<T: Scalar>(
    cpu: &Cpu,
    op: Unary,
    saved: &Buffer,
    dy: &Buffer,
) -> Result<Buffer> {
    let len = dy.len();
    let dy = cpu.read::<T>(op.name(), dy, len)?;
    let saved = cpu.read::<T>(op.name(), saved, len)?;
    let mut memory = cpu.alloc::<T>(len)?;
    with_function!(op, f => {
        cpu.threads.chunks(memory.slice_mut(len), TASK_ELEMENTS, |i, dx| {
            let piece = i * TASK_ELEMENTS..i * TASK_ELEMENTS + dx.len();
            cpu.isa.run(Backward { f, saved: &saved[piece.clone()], dy: &dy[piece], dx })
        })
    });
    Ok(memory.into_buffer::<T>(len))
}

/// into += x
pub fn accumulate<T: Scalar>(cpu: &Cpu, into: &mut Buffer, x: &Buffer) -> Result<()> {
    const OP: &str = "accumulate";
    let len = into.len();
    let x = cpu.read::<T>(OP, x, len)?;
    let into = cpu.update::<T>(OP, into, len)?;
    cpu.threads.chunks(into, TASK_ELEMENTS, |i, into| {
        let x = &x[i * TASK_ELEMENTS..][..into.len()];
        cpu.isa.run(Accumulate { into, x })
    });
    Ok(())
}
