//! One struct a peer: given a product, the median time that it takes.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use peers_common::{Shape, time, values};
use tilegrad_kernels::cpu::simd::Isa;
use tilegrad_kernels::cpu::{Cpu, CpuOptions};
use tilegrad_kernels::{Backend, Buffer, Dtype, Error, MatmulArgs, upload};

/// Someone who multiplies matrices.
pub trait Peer {
    /// Column heading.
    fn name(&self) -> String;

    /// Median seconds of one product, measured for about `seconds`; None if it does not do this product.
    fn round(&mut self, shape: &Shape, seconds: f64) -> Result<Option<f64>, String>;
}

/// tilegrad's CPU backend.
pub struct Tilegrad {
    cpu: Cpu,
    operands: Option<(Shape, MatmulArgs, Buffer, Buffer)>,
}

impl Tilegrad {
    /// With its own threads; also the instruction set that it uses.
    pub fn new(threads: usize) -> Result<(Self, Isa), String> {
        let options = CpuOptions { threads: Some(threads), ..CpuOptions::default() };
        let cpu = Cpu::new(options).map_err(|e| e.to_string())?;
        let isa = cpu.isa();
        Ok((Tilegrad { cpu, operands: None }, isa))
    }

    fn prepare(&self, shape: &Shape) -> tilegrad_kernels::Result<(MatmulArgs, Buffer, Buffer)> {
        let Shape { m, n, k, transpose_b, bf16 } = *shape;
        let b = if transpose_b { [n, k] } else { [k, n] };
        let args = MatmulArgs::new(&[m, k], &b, false, transpose_b)?;
        let buffer = |len: usize| {
            let x = upload(&self.cpu, &values(len))?;
            if bf16 { self.cpu.cast(&x, Dtype::BF16) } else { Ok(x) }
        };
        Ok((args, buffer(m * k)?, buffer(k * n)?))
    }
}

impl Peer for Tilegrad {
    fn name(&self) -> String {
        format!("tilegrad ({})", self.cpu.isa())
    }

    fn round(&mut self, shape: &Shape, seconds: f64) -> Result<Option<f64>, String> {
        if self.operands.as_ref().is_none_or(|(known, ..)| known != shape) {
            let (args, a, b) = self.prepare(shape).map_err(|e| e.to_string())?;
            self.operands = Some((*shape, args, a, b));
        }
        let Some((_, args, a, b)) = &self.operands else { return Ok(None) };
        match self.cpu.matmul(args, a, b, None) {
            Ok(_) => {}
            Err(Error::Unsupported { .. }) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        }
        Ok(Some(self.cpu.enter(|| {
            time(seconds, || {
                black_box(self.cpu.matmul(args, a, b, None).ok());
            })
        })))
    }
}

/// f32 operands of the crates that take pointers: a, b and room for y.
#[derive(Default)]
struct Slices {
    shape: Option<Shape>,
    a: Vec<f32>,
    b: Vec<f32>,
    y: Vec<f32>,
}

impl Slices {
    fn prepare(&mut self, shape: &Shape) {
        if self.shape != Some(*shape) {
            let Shape { m, n, k, .. } = *shape;
            *self = Slices {
                shape: Some(*shape),
                a: values(m * k),
                b: values(k * n),
                y: vec![0.0; m * n],
            };
        }
    }
}

/// Distances between rows and between columns of b.
fn strides_of_b(shape: &Shape) -> (isize, isize) {
    if shape.transpose_b { (1, shape.k as isize) } else { (shape.n as isize, 1) }
}

/// The crate `gemm` with its AVX-512 kernels.
pub struct Gemm {
    threads: usize,
    operands: Slices,
}

impl Gemm {
    /// On `threads` of rayon's global threads.
    pub fn new(threads: usize) -> Self {
        Gemm { threads, operands: Slices::default() }
    }
}

impl Peer for Gemm {
    fn name(&self) -> String {
        "gemm 0.19 x86-v4".into()
    }

    fn round(&mut self, shape: &Shape, seconds: f64) -> Result<Option<f64>, String> {
        if shape.bf16 {
            return Ok(None);
        }
        self.operands.prepare(shape);
        let Slices { a, b, y, .. } = &mut self.operands;
        let Shape { m, n, k, .. } = *shape;
        let (b_row, b_column) = strides_of_b(shape);
        let parallelism = match self.threads {
            1 => gemm::Parallelism::None,
            threads => gemm::Parallelism::Rayon(threads),
        };
        Ok(Some(time(seconds, || {
            // SAFETY: a, b and y have m k, k n and m n elements, which the strides stay within.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    y.as_mut_ptr(),
                    1,
                    n as isize,
                    false,
                    a.as_ptr(),
                    1,
                    k as isize,
                    b.as_ptr(),
                    b_column,
                    b_row,
                    0.0,
                    1.0,
                    false,
                    false,
                    false,
                    parallelism,
                )
            };
            black_box(&mut *y);
        })))
    }
}

/// The crate `matrixmultiply` with its threads.
#[derive(Default)]
pub struct MatrixMultiply {
    operands: Slices,
}

impl Peer for MatrixMultiply {
    fn name(&self) -> String {
        "matrixmultiply 0.3.11".into()
    }

    fn round(&mut self, shape: &Shape, seconds: f64) -> Result<Option<f64>, String> {
        if shape.bf16 {
            return Ok(None);
        }
        self.operands.prepare(shape);
        let Slices { a, b, y, .. } = &mut self.operands;
        let Shape { m, n, k, .. } = *shape;
        let (b_row, b_column) = strides_of_b(shape);
        Ok(Some(time(seconds, || {
            // SAFETY: a, b and y have m k, k n and m n elements, which the strides stay within.
            unsafe {
                matrixmultiply::sgemm(
                    m,
                    k,
                    n,
                    1.0,
                    a.as_ptr(),
                    k as isize,
                    1,
                    b.as_ptr(),
                    b_row,
                    b_column,
                    0.0,
                    y.as_mut_ptr(),
                    n as isize,
                    1,
                )
            };
            black_box(&mut *y);
        })))
    }
}

/// A peer in a process of its own, which answers [`Shape::request`] line by line.
pub struct Process {
    name: &'static str,
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Process {
    /// Starts `command`, words separated by spaces, with the number of threads as its last argument.
    pub fn new(name: &'static str, command: &str, threads: usize) -> Result<Self, String> {
        let mut words = command.split_whitespace();
        let program = words.next().ok_or(format!("no command for {name}"))?;
        let mut child = Command::new(program)
            .args(words)
            .arg(threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{name}: cannot start '{command}': {e}"))?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        Ok(Process { name, child, requests, answers })
    }
}

impl Peer for Process {
    fn name(&self) -> String {
        self.name.into()
    }

    fn round(&mut self, shape: &Shape, seconds: f64) -> Result<Option<f64>, String> {
        let mut ask = || {
            let requests = self.requests.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
            writeln!(requests, "{}", shape.request(seconds))?;
            requests.flush()?;
            let mut answer = String::new();
            self.answers.read_line(&mut answer)?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = ask().map_err(|e| format!("{}: {e}", self.name))?;
        match answer.trim() {
            "unsupported" => Ok(None),
            number => number
                .parse()
                .map(Some)
                .map_err(|_| format!("{}: answered '{number}' instead of seconds", self.name)),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // End of input ends the other program.
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}
