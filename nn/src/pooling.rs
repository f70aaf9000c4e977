//! Pooling layers: x `[N, H, W, C]`.

use tilegrad_engine::{Error, Result, Tensor, ops};
use tilegrad_kernels::Pool2dArgs;

use crate::module::{Context, LayerRow, Module, Parameter};

/// Window, stride and padding of a pooling, `[rows, columns]`.
#[derive(Clone, Copy, Debug)]
struct Window {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

impl Window {
    /// A square window that moves by its own size.
    fn square(kernel: usize) -> Self {
        Window { kernel: [kernel; 2], stride: [kernel; 2], padding: [0; 2] }
    }

    fn describe(
        &self,
        kind: &'static str,
        op: &'static str,
        name: &str,
        x: &[usize],
        rows: &mut Vec<LayerRow>,
    ) -> Result<Vec<usize>> {
        let Window { kernel, stride, padding } = *self;
        let args = Pool2dArgs::new(op, x, kernel, stride, padding)?;
        let out_shape = vec![args.n, args.oh, args.ow, args.c];
        let mut options = format!("{}x{}", kernel[0], kernel[1]);
        if stride != kernel {
            options += &format!(", stride {}x{}", stride[0], stride[1]);
        }
        if padding != [0, 0] {
            options += &format!(", padding {}x{}", padding[0], padding[1]);
        }
        rows.push(free_row(name, format!("{kind}({options})"), &out_shape));
        Ok(out_shape)
    }
}

/// The summary row of a layer without parameters.
pub(crate) fn free_row(name: &str, kind: String, out_shape: &[usize]) -> LayerRow {
    let (name, out_shape) = (name.to_string(), out_shape.to_vec());
    LayerRow { name, kind, out_shape, parameters: 0, multiply_adds: 0 }
}

macro_rules! pool {
    ($layer:ident, $op:ident, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, Debug)]
        pub struct $layer(Window);

        impl $layer {
            /// A square window that moves by its own size.
            pub fn new(kernel: usize) -> Self {
                $layer(Window::square(kernel))
            }

            /// Any window, stride and padding, `[rows, columns]`.
            pub fn with(kernel: [usize; 2], stride: [usize; 2], padding: [usize; 2]) -> Self {
                $layer(Window { kernel, stride, padding })
            }
        }

        impl Module for $layer {
            fn kind(&self) -> &'static str {
                stringify!($layer)
            }

            fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
                ops::$op(x, self.0.kernel, self.0.stride, self.0.padding)
            }

            fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Parameter)) {}

            fn describe(
                &self,
                name: &str,
                x: &[usize],
                rows: &mut Vec<LayerRow>,
            ) -> Result<Vec<usize>> {
                self.0.describe(stringify!($layer), stringify!($op), name, x, rows)
            }
        }
    };
}

pool!(MaxPool2d, max_pool2d, "Largest value of each window; padding never wins.");
pool!(AvgPool2d, avg_pool2d, "Mean of each window; padding is left out.");

/// Mean of each channel over the whole image: `[N, H, W, C]` to `[N, C]`.
#[derive(Clone, Copy, Debug)]
pub struct GlobalAvgPool2d;

impl Module for GlobalAvgPool2d {
    fn kind(&self) -> &'static str {
        "GlobalAvgPool2d"
    }

    fn forward(&self, x: &Tensor, _ctx: &mut Context) -> Result<Tensor> {
        ops::global_avg_pool2d(x)
    }

    fn visit<'a>(&'a self, _prefix: &str, _f: &mut dyn FnMut(String, &'a Parameter)) {}

    fn describe(&self, name: &str, x: &[usize], rows: &mut Vec<LayerRow>) -> Result<Vec<usize>> {
        let &[n, _, _, c] = x else {
            let detail = format!("x must be [N, H, W, C], got {x:?}");
            return Err(Error::shape("global_avg_pool2d", detail));
        };
        rows.push(free_row(name, self.kind().to_string(), &[n, c]));
        Ok(vec![n, c])
    }
}
