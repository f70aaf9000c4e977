//! Matrix products: a GEMM of five loops around the microkernel of [`super::gemm`].
//!
//! ```text
//!   loop 5   blocks of rows            \  tasks, spread over the threads
//!   loop 4   blocks of KC terms        /  (B was packed before, for as many terms as PACKED holds)
//!   loop 3   NC columns: KC x NC of B stay in L2
//!   loop 2   MR rows                   \  gemm::Block
//!   loop 1   NR columns                /
//! ```
//!
//! A is read where it lies if its rows are contiguous, and fetched into L2 a tile ahead: packing it
//! would be a pass that products with few columns do not repay. Only loop 4 splits a sum, and its blocks
//! depend on the sizes alone.

use std::sync::{Mutex, OnceLock};

use crate::cpu::gemm::{Block, LINE, Matrix, PackColumns, Rows};
use crate::cpu::scalar::Scalar;
use crate::cpu::simd::Isa;
use crate::*;

use super::Cpu;
use super::threads::SharedMut;

/// Words of a sum between two visits to C. A panel of B (KC x 32) streams from L2 at 128 bytes each
/// 28 cycles, a sixth of what L2 delivers; smaller blocks that fit L1 were slower here, for they
/// visit C more often. 640 takes the 64 x 9 terms of a common convolution
/// at once.
const KC: usize = 640;
/// Rows of a task at most; those of A fit L2 beside a block of B if they have to be copied.
const MC: usize = 112;
/// Elements of B that are packed at a time, if one block of KC terms has no more: 4 MiB, a part of L3.
const PACKED: usize = 1 << 20;
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

/// Bytes of a core's second-level cache.
fn l2_bytes() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    *BYTES.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        let kib = {
            use std::arch::x86_64::__cpuid;
            // Leaf 0x8000_0006: KiB of L2 in the upper half of ECX, with AMD and Intel alike.
            match __cpuid(0x8000_0000).eax >= 0x8000_0006 {
                true => __cpuid(0x8000_0006).ecx as usize >> 16,
                false => 0,
            }
        };
        #[cfg(not(target_arch = "x86_64"))]
        let kib = 0;
        // A processor that does not say is taken for one of the common size.
        if kib == 0 { 512 << 10 } else { kib << 10 }
    })
}

/// How the microkernel gets the rows of A.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    /// Where they lie.
    InPlace,
    /// Copied: because their distance makes lines of all rows of a tile compete for one set of L1, or
    /// because the last word would reach beyond the row.
    Copied,
    /// Turned into panels: A is stored as its transpose.
    Panels,
}

impl Source {
    fn of<T: Scalar>(a: &Matrix<'_, T>, k: usize) -> Source {
        /// Bytes after which addresses share a set of L1 again: 64 sets of a line on x86.
        const PERIOD: usize = 4096;
        let past = a.row * size_of::<T>() % PERIOD;
        match a.column {
            1 if past.min(PERIOD - past) < 32 || !k.is_multiple_of(T::TERMS) => Source::Copied,
            1 => Source::InPlace,
            _ => Source::Panels,
        }
    }
}

/// Cuts `m` rows into tasks of whole tiles of `mr`, as equal as that allows, several for each thread.
fn row_tasks(m: usize, mr: usize, threads: usize) -> Vec<(usize, usize)> {
    let tiles = m.div_ceil(mr);
    let tasks = (tiles * mr).div_ceil(MC).max(4 * threads).next_multiple_of(threads).min(tiles);
    let start = |task: usize| (tiles * task / tasks * mr).min(m);
    (0..tasks).map(|task| (start(task), start(task + 1) - start(task))).collect()
}

/// y = A B + bias for one product, on all threads if `parallel`.
fn multiply<T: Scalar>(cpu: &Cpu, p: Product<'_, T>, y: &mut [T], parallel: bool) -> Result<()> {
    let (mr, nr) = panel_sizes(cpu.isa);
    let threads = if parallel { cpu.threads.count() } else { 1 };
    // Loop 4 in blocks of equal numbers of words, so that none is short.
    let words = p.k.div_ceil(T::TERMS);
    let kc = words.div_ceil(words.div_ceil(KC));
    let padded = p.n.next_multiple_of(nr);
    let span = (PACKED / (padded * kc)).max(1) * kc;
    let mut packed_b = cpu.alloc::<f32>(padded * span.min(words))?;
    let packed_b = SharedMut::new(packed_b.slice_mut::<f32>(padded * span.min(words)));
    // Loop 3 in equal blocks of whole panels: of B, 5/8 of L2.
    let most = (l2_bytes() / 8 * 5 / size_of::<f32>() / kc).max(nr);
    let nc = p.n.div_ceil(p.n.div_ceil(most)).next_multiple_of(nr);
    // A task has all columns, unless there are too few rows for all threads.
    let rows = row_tasks(p.m, mr, threads);
    let groups = (4 * threads).div_ceil(p.m.div_ceil(mr)).min(padded / nr);
    let group = (padded / nr).div_ceil(groups) * nr;
    let groups = p.n.div_ceil(group);

    let source = Source::of(&p.a, p.k);
    // Copied rows are not a multiple of the period of L1 apart.
    let copied_row = kc.next_multiple_of(LINE) + LINE;
    let scratch_size = match source {
        Source::InPlace => 0,
        Source::Copied => MC * copied_row,
        Source::Panels => MC.next_multiple_of(mr) * kc,
    };
    let mut scratch = Vec::new();
    for _ in 0..if scratch_size > 0 { threads } else { 0 } {
        scratch.push(Mutex::new(cpu.alloc::<f32>(scratch_size)?));
    }
    // Sums over some of the blocks are kept in f32: in C itself where that is f32.
    let mut sums = match kc < words && T::TERMS > 1 {
        true => Some(cpu.alloc::<f32>(y.len())?),
        false => None,
    };
    let sums = sums.as_mut().map(|sums| SharedMut::new(sums.slice_mut::<f32>(p.m * p.n)));
    let c = SharedMut::new(y);
    for s0 in (0..words).step_by(span) {
        let end = words.min(s0 + span);
        let blocks: Vec<Terms> = (s0..end)
            .step_by(kc)
            .map(|w0| {
                let (k0, words) = (w0 * T::TERMS, (end - w0).min(kc));
                Terms { k0, k: (p.k - k0).min(words * T::TERMS), word: w0, words }
            })
            .collect();
        let pack = |i: usize| {
            let (block, j0) = (blocks[i % blocks.len()], i / blocks.len() * nr);
            let width = (p.n - j0).min(nr);
            let Terms { k0, k, word, words } = block;
            // SAFETY: each panel of each block is written by one task.
            let out = unsafe { packed_b.slice((word - s0) * padded + j0 * words, nr * words) };
            cpu.isa.run(PackColumns { b: p.b, k0, k, j0, width, panel: nr, out });
        };
        let task = |i: usize| {
            let ((i0, rows), first) = (rows[i / groups], i % groups * group);
            let end = p.n.min(first + group);
            // A free scratch block: there is one for each thread that can be here.
            let mut guard = (!scratch.is_empty()).then(|| {
                let free = scratch.iter().find_map(|s| s.try_lock().ok());
                free.unwrap_or_else(|| scratch[0].lock().unwrap_or_else(|e| e.into_inner()))
            });
            for &block in &blocks {
                let copy = guard.as_mut().map(|g| g.slice_mut::<f32>(scratch_size));
                let a = rows_of_a(cpu.isa, source, p.a, (i0, rows), block, copied_row, copy);
                for j0 in (first..end).step_by(nc) {
                    let columns = (end - j0).min(nc);
                    // SAFETY: (i0, j0) lies inside C and the sums, and this task alone touches the
                    // block's rows and columns.
                    let (c, partial) = unsafe {
                        let c = c.pointer(i0 * p.n + j0);
                        let sums = sums.as_ref().map(|sums| sums.pointer(i0 * p.n + j0));
                        (c, sums.unwrap_or(c.cast::<f32>()))
                    };
                    cpu.isa.run(Block {
                        a,
                        // SAFETY: all panels were written before this task began.
                        b: unsafe {
                            let len = columns.next_multiple_of(nr) * block.words;
                            packed_b.read((block.word - s0) * padded + j0 * block.words, len)
                        },
                        k: block.words,
                        rows,
                        columns,
                        c,
                        partial,
                        c_row: p.n,
                        add: block.word > 0,
                        more: block.word + block.words < words,
                        bias: p.bias.filter(|_| block.word == 0).map(|bias| &bias[j0..]),
                    });
                }
            }
        };
        let (packs, tasks) = (blocks.len() * padded / nr, rows.len() * groups);
        if parallel {
            cpu.threads.run_both((packs, &pack), (tasks, &task));
        } else {
            (0..packs).for_each(pack);
            (0..tasks).for_each(task);
        }
    }
    Ok(())
}

/// A block of loop 4: terms `k0` to `k0 + k`, which are words `word` to `word + words`.
#[derive(Clone, Copy)]
struct Terms {
    k0: usize,
    k: usize,
    word: usize,
    words: usize,
}

/// Rows `i0` to `i0 + rows` of a block of A for the microkernel, in `copy` if need be.
fn rows_of_a<T: Scalar>(
    isa: Isa,
    source: Source,
    a: Matrix<'_, T>,
    (i0, rows): (usize, usize),
    Terms { k0, k, words, .. }: Terms,
    copied_row: usize,
    copy: Option<&mut [f32]>,
) -> Rows<T> {
    let (mr, _) = panel_sizes(isa);
    let corner = &a.data[i0 * a.row + k0 * a.column..];
    match (source, copy) {
        (Source::Copied, Some(copy)) => {
            for (i, out) in copy.chunks_exact_mut(copied_row).take(rows).enumerate() {
                let out: &mut [T] = bytemuck::cast_slice_mut(&mut out[..words]);
                out[..k].copy_from_slice(&corner[i * a.row..][..k]);
                out[k..].fill(T::narrow(0.0));
            }
            let (start, row) = (copy.as_ptr().cast(), copied_row * T::TERMS);
            Rows { start, row, word: T::TERMS, tile: mr * row, prefetch: false }
        }
        (Source::Panels, Some(copy)) => {
            // Packing rows of A is packing columns of its transpose.
            let b = Matrix { data: a.data, row: a.column, column: a.row };
            for (i, out) in copy.chunks_exact_mut(mr * words).take(rows.div_ceil(mr)).enumerate() {
                let (j0, width) = (i0 + i * mr, (rows - i * mr).min(mr));
                isa.run(PackColumns { b, k0, k, j0, width, panel: mr, out });
            }
            let (start, word) = (copy.as_ptr().cast(), mr * T::TERMS);
            Rows { start, row: T::TERMS, word, tile: word * words, prefetch: false }
        }
        _ => {
            let (start, tile) = (corner.as_ptr(), mr * a.row);
            Rows { start, row: a.row, word: T::TERMS, tile, prefetch: true }
        }
    }
}
