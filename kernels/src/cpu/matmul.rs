//! Matrix products: a packed GEMM of five loops around the microkernel of [`super::gemm`].
//!
//! ```text
//!   loop 5   blocks of NC columns      \  tasks, spread over the threads
//!   loop 3   blocks of MC rows         /  (each packs its rows of A: MC x KC, into L2)
//!   loop 4   blocks of KC terms           outermost here: B is packed once for all tasks
//!   loop 2   NR columns of the block   \  gemm::Block
//!   loop 1   MR rows of the block      /
//! ```
//!
//! Only loop 4 splits a sum, and its blocks depend on the sizes alone.

use crate::cpu::gemm::{Block, Matrix, PackColumns};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::Isa;
use crate::*;

use super::Cpu;
use super::threads::SharedMut;

/// Words of a sum between two visits to C. A panel of B (KC x 32) streams from L2 at 128 bytes each
/// 28 cycles, a sixth of what L2 delivers; smaller blocks that fit L1 were slower here, for they
/// visit C more often.
const KC: usize = 512;
/// Rows of a task: a packed block of A (MC x KC) takes 224 KiB of L2.
const MC: usize = 112;
/// Columns of a task.
const NC: usize = 512;
/// Below this many multiply-adds the hand-over to another thread costs more than it saves.
const SMALL: usize = 64 * 64 * 64;

/// Kernel-facing sizes of one product.
#[derive(Clone, Copy)]
struct Product<'a, T> {
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'a, T>,
    b: Matrix<'a, T>,
    bias: Option<&'a [T]>,
}

/// y = op(a) op(b) + bias, in f32 or bf16.
pub fn matmul<T: Scalar>(
    cpu: &Cpu,
    args: &MatmulArgs,
    a: &Buffer,
    b: &Buffer,
    bias: Option<&Buffer>,
) -> Result<Buffer> {
    const OP: &str = "matmul";
    let &MatmulArgs { batch, m, n, k, .. } = args;
    let a = cpu.read::<T>(OP, a, args.a_elements())?;
    let b = cpu.read::<T>(OP, b, args.b_elements())?;
    let bias = bias.map(|bias| cpu.read::<T>(OP, bias, n)).transpose()?;
    let mut memory = cpu.alloc::<T>(args.y_elements())?;
    let y = memory.slice_mut::<T>(args.y_elements());
    if m * n * k == 0 {
        // Empty sums: only the bias is left.
        match bias {
            Some(bias) if n > 0 => y.chunks_exact_mut(n).for_each(|row| row.copy_from_slice(bias)),
            _ => y.fill(T::narrow(0.0)),
        }
        return Ok(memory.into_buffer::<T>(args.y_elements()));
    }
    let product = |i: usize| {
        let pick = |x: &'_ [T], shared: bool, size: usize| -> usize {
            debug_assert!(x.len() >= size);
            if shared { 0 } else { i * size }
        };
        let a = &a[pick(a, args.shared_a, m * k)..][..m * k];
        let b = &b[pick(b, args.shared_b, k * n)..][..k * n];
        let (a_row, a_column) = if args.transpose_a { (1, m) } else { (k, 1) };
        let (b_row, b_column) = if args.transpose_b { (1, k) } else { (n, 1) };
        Product {
            m,
            n,
            k,
            a: Matrix { data: a, row: a_row, column: a_column },
            b: Matrix { data: b, row: b_row, column: b_column },
            bias,
        }
    };
    if batch > 1 && m * n * k <= 16 * SMALL {
        // Many small products: one task each.
        let failed = std::sync::Mutex::new(None);
        cpu.threads.chunks(y, m * n, |i, y| {
            if let Err(e) = multiply(cpu, product(i), y, false) {
                *failed.lock().unwrap_or_else(|e| e.into_inner()) = Some(e);
            }
        });
        if let Some(e) = failed.into_inner().unwrap_or_else(|e| e.into_inner()) {
            return Err(e);
        }
    } else {
        for (i, y) in y.chunks_exact_mut(m * n).enumerate() {
            multiply(cpu, product(i), y, m * n * k > SMALL)?;
        }
    }
    Ok(memory.into_buffer::<T>(args.y_elements()))
}

/// Rows of a packed A panel and columns of a packed B panel.
fn panel_sizes(isa: Isa) -> (usize, usize) {
    match isa {
        Isa::Avx512 | Isa::Avx512Bf16 => (super::gemm::MR_WIDE, 32),
        Isa::Avx2 | Isa::Portable => (super::gemm::MR_NARROW, 16),
    }
}

/// y = A B + bias for one product, on all threads if `parallel`.
fn multiply<T: Scalar>(cpu: &Cpu, p: Product<'_, T>, y: &mut [T], parallel: bool) -> Result<()> {
    let (mr, nr) = panel_sizes(cpu.isa);
    // Loop 4 in blocks of equal numbers of words, so that none is short.
    let words = p.k.div_ceil(T::TERMS);
    let kc = words.div_ceil(words.div_ceil(KC));
    let column_panels = p.n.div_ceil(nr);
    let mut packed_b = cpu.alloc::<f32>(column_panels * nr * kc)?;
    let packed_b = packed_b.slice_mut::<f32>(column_panels * nr * kc);
    // Tasks of at most MC x NC, rows in whole panels; fewer rows where there would be too few
    // tasks.
    let mut mc = MC / mr * mr;
    let nc = NC.min(column_panels * nr);
    while mc > mr && p.m.div_ceil(mc) * p.n.div_ceil(nc) < 4 * cpu.threads.count() {
        mc -= mr;
    }
    let (row_blocks, column_blocks) = (p.m.div_ceil(mc), p.n.div_ceil(nc));
    let run = |count: usize, task: &(dyn Fn(usize) + Sync)| match parallel {
        true => cpu.threads.run(count, task),
        false => (0..count).for_each(task),
    };
    let mut scratch = Vec::new();
    for _ in 0..if parallel { cpu.threads.count() } else { 1 } {
        scratch.push(std::sync::Mutex::new(cpu.alloc::<f32>(mc * kc)?));
    }
    // Sums over some of the blocks are kept in f32: in C itself where that is f32.
    let several = kc < words;
    let mut sums = match several && T::TERMS > 1 {
        true => Some(cpu.alloc::<f32>(y.len())?),
        false => None,
    };
    let sums = sums.as_mut().map(|sums| SharedMut::new(sums.slice_mut::<f32>(p.m * p.n)));
    let c = SharedMut::new(y);
    for w0 in (0..words).step_by(kc) {
        let (k0, k) = (w0 * T::TERMS, (words - w0).min(kc));
        let terms = (p.k - k0).min(k * T::TERMS);
        let b_panels = SharedMut::new(packed_b);
        run(column_panels, &|j| {
            let width = (p.n - j * nr).min(nr);
            // SAFETY: panel j is written by task j alone.
            let out = unsafe { b_panels.slice(j * nr * k, nr * k) };
            cpu.isa.run(PackColumns { b: p.b, k0, k: terms, j0: j * nr, width, panel: nr, out });
        });
        let packed_b = &*packed_b;
        run(row_blocks * column_blocks, &|task| {
            let (i0, j0) = (task / column_blocks * mc, task % column_blocks * nc);
            let (rows, columns) = ((p.m - i0).min(mc), (p.n - j0).min(nc));
            // A free scratch block: there is one for each thread that can be here.
            let mut guard = scratch
                .iter()
                .find_map(|s| s.try_lock().ok())
                .unwrap_or_else(|| scratch[0].lock().unwrap_or_else(|e| e.into_inner()));
            let panels = guard.slice_mut::<f32>(mc * kc);
            // Packing rows of A is packing columns of its transpose.
            let transpose = Matrix { data: p.a.data, row: p.a.column, column: p.a.row };
            for (i, out) in panels.chunks_exact_mut(mr * k).take(rows.div_ceil(mr)).enumerate() {
                let (j0, width) = (i0 + i * mr, (rows - i * mr).min(mr));
                let pack = PackColumns { b: transpose, k0, k: terms, j0, width, panel: mr, out };
                cpu.isa.run(pack);
            }
            // SAFETY: (i0, j0) lies inside C and the sums, and this task alone touches the block's
            // rows and columns.
            let (c, partial) = unsafe {
                let c = c.pointer(i0 * p.n + j0);
                (c, sums.as_ref().map_or(c.cast::<f32>(), |sums| sums.pointer(i0 * p.n + j0)))
            };
            cpu.isa.run(Block {
                a: panels,
                b: &packed_b[j0 * k..],
                k,
                rows,
                columns,
                c,
                partial,
                c_row: p.n,
                add: w0 > 0,
                more: w0 + k < words,
                bias: p.bias.filter(|_| w0 == 0).map(|bias| &bias[j0..]),
            });
        });
    }
    Ok(())
}
