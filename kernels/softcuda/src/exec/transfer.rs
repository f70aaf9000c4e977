//! Loads, stores and asynchronous copies.
//!
//! An instruction's field `a` is the row of addresses, `imm` the offset that is added to them, and
//! `x` says (see [`place`]) in which space they are and whether the row has 32 or 64 bits. Vectors
//! keep their rows in [`crate::code::Code::lists`].

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::access::Request;
use super::{Context, race};
use crate::code::{Handler, Insn, LANES};
use crate::error::Access;
use crate::lanes::{self, Lane, multiversion};
use crate::types::Space;

/// The value of [`Insn::x`] for an address.
pub fn place(space: Space, wide: bool) -> u32 {
    let space = match space {
        Space::Global => 0,
        Space::Shared => 1,
        Space::Local => 2,
        Space::Const => 3,
        Space::Param => 4,
        Space::Generic => 5,
    };
    space | u32::from(wide) << 3
}

pub(super) fn space_of(x: u32) -> Space {
    match x & 7 {
        0 => Space::Global,
        1 => Space::Shared,
        2 => Space::Local,
        3 => Space::Const,
        4 => Space::Param,
        _ => Space::Generic,
    }
}

/// Addresses of the lanes.
///
/// # Safety
/// `row` is a row of the width that `x` says.
#[inline(always)]
pub unsafe fn addresses(ctx: &Context<'_>, row: u32, x: u32, offset: u64) -> [u64; LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        if x & 8 != 0 {
            lanes::row::<u64>(ctx, row).map(|a| a.wrapping_add(offset))
        } else {
            // 32-bit addresses are those of shared and local memory, and wrap around there.
            lanes::row::<u32>(ctx, row).map(|a| u64::from(a.wrapping_add(offset as u32)))
        }
    }
}

/// A type as it lies in memory.
pub trait Element: Copy + PartialEq + 'static {
    /// # Safety
    /// `from` points to a live, aligned element.
    unsafe fn load(from: *mut u8) -> Self;
    /// # Safety
    /// As `load`.
    unsafe fn store(self, to: *mut u8);
}

macro_rules! element {
    ($($ty:ty, $atomic:ty, $bits:ty;)*) => {$(
        impl Element for $ty {
            #[inline(always)]
            unsafe fn load(from: *mut u8) -> Self {
                // SAFETY: the caller's promise; on global memory all accesses are atomic.
                unsafe { <$atomic>::from_ptr(from.cast()) }.load(Relaxed) as $ty
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut u8) {
                // SAFETY: as above.
                unsafe { <$atomic>::from_ptr(to.cast()) }.store(self as $bits, Relaxed)
            }
        }
    )*};
}

element! {
    u8, AtomicU8, u8;
    i8, AtomicU8, u8;
    u16, AtomicU16, u16;
    i16, AtomicU16, u16;
    u32, AtomicU32, u32;
    i32, AtomicU32, u32;
    u64, AtomicU64, u64;
}

/// Widening by sign or zeros, or cutting off.
pub trait Fit<D> {
    /// The value as a D.
    fn fit(self) -> D;
}

macro_rules! fit {
    ($($from:ty => $($to:ty),*;)*) => {$($(
        impl Fit<$to> for $from {
            #[inline(always)]
            fn fit(self) -> $to {
                self as $to
            }
        }
    )*)*};
}

fit! {
    u8 => u8, u16, u32, u64;
    i8 => u8, u16, u32, u64;
    u16 => u8, u16, u32, u64;
    i16 => u8, u16, u32, u64;
    u32 => u8, u16, u32, u64;
    i32 => u8, u16, u32, u64;
    u64 => u8, u16, u32, u64;
}

/// `ld` of V elements E into rows of D: row `d`, or list `d` for vectors.
pub fn load<E: Element + Fit<D>, D: Lane, const V: usize>() -> Handler {
    #[inline(always)]
    unsafe fn body<E: Element + Fit<D>, D: Lane, const V: usize>(
        ctx: &mut Context<'_>,
        insn: &Insn,
        mask: u32,
    ) {
        // SAFETY: decoded operands, see `Handler`.
        let addresses = unsafe { addresses(ctx, insn.a, insn.x, insn.imm) };
        let request =
            Request { space: space_of(insn.x), bytes: size_of::<E>() * V, access: Access::Read };
        let Some(pointers) = ctx.resolve(insn, request, &addresses, mask) else { return };
        for v in 0..V {
            let d = if V == 1 { insn.d } else { ctx.grid.code.lists[insn.d as usize + v] };
            let at = v * size_of::<E>();
            // SAFETY: `resolve` vouches for V elements at the pointers of the mask's lanes; the
            // rows are decoded.
            unsafe {
                let to = ctx.regs.add(d as usize).cast::<D::Raw>();
                if super::access::is_full(mask) {
                    for lane in 0..LANES {
                        let value = E::load(pointers[lane].wrapping_add(at));
                        *to.add(lane) = value.fit().put();
                    }
                } else {
                    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
                        let value = E::load(pointers[lane].wrapping_add(at));
                        *to.add(lane) = value.fit().put();
                    }
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn avx2<E: Element + Fit<D>, D: Lane, const V: usize>(
        ctx: &mut Context<'_>,
        insn: &Insn,
        mask: u32,
    ) {
        // SAFETY: the caller's promise is the body's.
        unsafe { body::<E, D, V>(ctx, insn, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if lanes::wide() {
        return avx2::<E, D, V>;
    }
    body::<E, D, V>
}

/// `st` of V elements E from rows of S: row `b`, or list `b` for vectors.
pub fn store<S: Lane + Fit<E>, E: Element, const V: usize>() -> Handler {
    #[inline(always)]
    unsafe fn body<S: Lane + Fit<E>, E: Element, const V: usize>(
        ctx: &mut Context<'_>,
        insn: &Insn,
        mask: u32,
    ) {
        // SAFETY: decoded operands, see `Handler`.
        let addresses = unsafe { addresses(ctx, insn.a, insn.x, insn.imm) };
        let request =
            Request { space: space_of(insn.x), bytes: size_of::<E>() * V, access: Access::Write };
        let Some(pointers) = ctx.resolve(insn, request, &addresses, mask) else { return };
        let rows: [u32; V] = std::array::from_fn(|v| {
            if V == 1 { insn.b } else { ctx.grid.code.lists[insn.b as usize + v] }
        });
        for (v, &row) in rows.iter().enumerate() {
            let at = v * size_of::<E>();
            // SAFETY: as in `load`.
            unsafe {
                let from = ctx.regs.add(row as usize).cast::<S::Raw>();
                if super::access::is_full(mask) {
                    for lane in 0..LANES {
                        let value: E = S::get(*from.add(lane)).fit();
                        value.store(pointers[lane].wrapping_add(at));
                    }
                } else {
                    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
                        let value: E = S::get(*from.add(lane)).fit();
                        value.store(pointers[lane].wrapping_add(at));
                    }
                }
            }
        }
        if ctx.shadow.looks_for_races() && touches_shared(space_of(insn.x), &addresses, mask) {
            let mut differing = 0;
            for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
                for (v, &row) in rows.iter().enumerate() {
                    // SAFETY: as above.
                    unsafe {
                        let from = ctx.regs.add(row as usize).cast::<S::Raw>();
                        let value: E = S::get(*from.add(lane)).fit();
                        let there = E::load(pointers[lane].wrapping_add(v * size_of::<E>()));
                        differing |= u32::from(value != there) << lane;
                    }
                }
            }
            note_store(ctx, insn, request, &addresses, mask, differing);
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn avx2<S: Lane + Fit<E>, E: Element, const V: usize>(
        ctx: &mut Context<'_>,
        insn: &Insn,
        mask: u32,
    ) {
        // SAFETY: the caller's promise is the body's.
        unsafe { body::<S, E, V>(ctx, insn, mask) }
    }
    #[cfg(target_arch = "x86_64")]
    if lanes::wide() {
        return avx2::<S, E, V>;
    }
    body::<S, E, V>
}

fn is_shared(address: u64) -> bool {
    address.wrapping_sub(super::SHARED_BASE) < super::WINDOW
}

fn touches_shared(space: Space, addresses: &[u64; LANES], mask: u32) -> bool {
    match space {
        Space::Shared => true,
        Space::Generic => (0..LANES).any(|i| mask >> i & 1 != 0 && is_shared(addresses[i])),
        _ => false,
    }
}

#[inline(never)]
fn note_store(
    ctx: &mut Context<'_>,
    insn: &Insn,
    request: Request,
    addresses: &[u64; LANES],
    mask: u32,
    differing: u32,
) {
    let (mut inside, mut part) = (*addresses, mask);
    if request.space == Space::Generic {
        for lane in 0..LANES {
            if !is_shared(addresses[lane]) {
                part &= !(1 << lane);
            }
            inside[lane] = addresses[lane].wrapping_sub(super::SHARED_BASE);
        }
    }
    ctx.race(insn, request, &inside, part, differing);
}

/// `ld.param` of a kernel at a fixed offset `imm`: the same value for all lanes.
pub fn load_param<E: Element + Fit<D>, D: Lane>() -> Handler {
    #[inline(always)]
    unsafe fn body<E, D>(ctx: &mut Context<'_>, insn: &Insn, mask: u32)
    where
        E: Element + Fit<D>,
        D: Lane,
    {
        let from = ctx.grid.params.as_ptr().cast_mut().cast::<u8>();
        // SAFETY: the decoder checked that the aligned element lies inside of the parameters; rows
        // are decoded.
        unsafe {
            let value: D = E::load(from.add(insn.imm as usize)).fit();
            lanes::set_row(ctx, insn.d, mask, &[value; LANES]);
        }
    }
    multiversion!(body::<E, D> where E: Element + Fit<D>, D: Lane)
}

/// Asynchronous copies of a warp that have begun and not ended.
#[derive(Default)]
pub struct Copies {
    /// Those before `open` are in groups that were committed.
    pending: std::collections::VecDeque<Begun>,
    /// Of each committed group, oldest first: how many copies it has, of all lanes together.
    lane_groups: [u32; LANES],
}

struct Begun {
    lane: u8,
    bytes: u8,
    /// Group of the lane that it belongs to.
    group: u32,
    to: u32,
    data: [u8; 16],
}

impl Copies {
    /// Forgets everything.
    pub fn clear(&mut self) {
        self.pending.clear();
        self.lane_groups = [0; LANES];
    }
}

/// `cp.async`: `a` shared addresses, `b` global addresses, `c` row of the source's bytes (or none:
/// `d` = 0), `imm` offsets (shared in the low, global in the high half); `x` as for loads of `a`,
/// bit 4 for the width of `b`, then the bytes.
pub unsafe fn copy_async(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    let bytes = (insn.x >> 8) as usize;
    let signed = |half: u64| half as u32 as i32 as i64 as u64;
    // SAFETY: decoded operands, see `Handler`.
    let (to, from, sizes) = unsafe {
        let to = addresses(ctx, insn.a, insn.x, signed(insn.imm));
        let from =
            addresses(ctx, insn.b, if insn.x & 16 != 0 { 8 } else { 0 }, signed(insn.imm >> 32));
        let sizes =
            if insn.d != 0 { lanes::row::<u32>(ctx, insn.c) } else { [bytes as u32; LANES] };
        (to, from, sizes)
    };
    let (mut source, mut reading) = (from, 0);
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        if sizes[lane] as usize > bytes {
            let message = format!("cp.async of {} of {bytes} bytes", sizes[lane]);
            return ctx.fail(insn, 1 << lane, message);
        }
        if sizes[lane] > 0 {
            reading |= 1 << lane;
        } else {
            source[lane] = 0;
        }
    }
    let write = Request { space: Space::Shared, bytes, access: Access::Write };
    if ctx.resolve(insn, write, &to, mask).is_none() {
        return;
    }
    if ctx.shadow.looks_for_races() && ctx.race(insn, write, &to, mask, mask).is_none() {
        return;
    }
    // Fewer bytes than the whole are read one by one: only those have to exist.
    let partial = (0..LANES)
        .filter(|&i| reading >> i & 1 != 0 && sizes[i] as usize != bytes)
        .fold(0u32, |m, i| m | 1 << i);
    let read = Request { space: Space::Global, bytes, access: Access::Read };
    let Some(pointers) = ctx.resolve(insn, read, &source, reading & !partial) else { return };
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
        let mut data = [0u8; 16];
        if partial >> lane & 1 != 0 {
            for i in 0..sizes[lane] as usize {
                let one = Request { bytes: 1, ..read };
                let mut at = source;
                at[lane] += i as u64;
                let Some(p) = ctx.resolve(insn, one, &at, 1 << lane) else { return };
                // SAFETY: `resolve` vouches for the byte.
                data[i] = unsafe { u8::load(p[lane]) };
            }
        } else if reading >> lane & 1 != 0 {
            for i in (0..bytes).step_by(4) {
                // SAFETY: `resolve` vouches for `bytes` aligned bytes, 4, 8 or 16.
                let word = unsafe { u32::load(pointers[lane].wrapping_add(i)) };
                data[i..i + 4].copy_from_slice(&word.to_ne_bytes());
            }
        }
        if !ctx.shadow.state.is_empty() {
            ctx.shadow.state[to[lane] as usize..][..bytes].fill(race::PENDING);
        }
        let copies = &mut ctx.copies[ctx.warp];
        let group = copies.lane_groups[lane];
        let (lane, bytes, to) = (lane as u8, bytes as u8, to[lane] as u32);
        copies.pending.push_back(Begun { lane, bytes, group, to, data });
    }
}

/// `cp.async.commit_group`
pub unsafe fn commit_group(ctx: &mut Context<'_>, _: &Insn, mask: u32) {
    let copies = &mut ctx.copies[ctx.warp];
    for (lane, group) in copies.lane_groups.iter_mut().enumerate() {
        *group += mask >> lane & 1;
    }
}

/// `cp.async.wait_group n` (`imm`), or `wait_all` (`x` = 1): ends all but the newest n groups of
/// each lane.
pub unsafe fn wait_group(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    let warp = ctx.warp;
    let mut pending = std::mem::take(&mut ctx.copies[warp].pending);
    let groups = ctx.copies[warp].lane_groups;
    pending.retain(|copy| {
        let lane = copy.lane as usize;
        // Groups are numbered from 0; `groups[lane]` is the one that is still open.
        let ends = insn.x == 1 || u64::from(copy.group) + insn.imm < u64::from(groups[lane]);
        if mask >> lane & 1 == 0 || !ends {
            return true;
        }
        let (to, bytes) = (copy.to as usize, copy.bytes as usize);
        let start = ctx.shared.as_mut_ptr().cast::<u8>().wrapping_add(to);
        for (i, &byte) in copy.data[..bytes].iter().enumerate() {
            // SAFETY: `resolve` found these bytes inside of shared memory when the copy began.
            unsafe { *start.add(i) = byte };
        }
        if !ctx.shadow.state.is_empty() {
            ctx.shadow.state[to..to + bytes].fill(race::WRITTEN);
        }
        false
    });
    ctx.copies[warp].pending = pending;
}
