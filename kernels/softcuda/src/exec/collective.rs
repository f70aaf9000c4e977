//! Instructions in which the lanes of a warp tell each other something: shuffles, votes, matches,
//! reductions.
//!
//! When they run, all lanes of their member mask are here (see [`super::warp`]); different lanes
//! may belong to different groups, each with its own mask.

use super::Context;
use crate::code::{Insn, LANES};
use crate::error::Error;
use crate::lanes::{self, Lane};

/// The groups of a set of lanes by member mask: each with the lanes of it that are here.
fn groups(ctx: &Context<'_>, row: u32, mask: u32) -> impl Iterator<Item = u32> + use<> {
    // SAFETY: a decoded row of 32-bit registers.
    let members = unsafe { lanes::row::<u32>(ctx, row) };
    let mut left = mask;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let first = members[left.trailing_zeros() as usize];
        let group = (0..LANES).fold(0, |g, i| g | u32::from(members[i] == first) << i) & left;
        left &= !group;
        Some(group)
    })
}

fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 != 0)
}

/// How `shfl` finds the lane it reads: [`Insn::x`].
pub const SHUFFLES: [&str; 4] = ["up", "down", "bfly", "idx"];

/// `shfl.sync`: row `a` of the lane that rows `b` and `c` name; predicate `imm` says whether that
/// lane was in range.
pub unsafe fn shuffle(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    // SAFETY: decoded rows, see `Handler`.
    let (a, b, c) = unsafe {
        (
            lanes::row::<u32>(ctx, insn.a),
            lanes::row::<u32>(ctx, insn.b),
            lanes::row::<u32>(ctx, insn.c),
        )
    };
    let (mut d, mut inside, mut absent) = ([0; LANES], 0, 0);
    for lane in 0..LANES {
        let segment = c[lane] >> 8 & 31;
        let (by, clamp, me) = (b[lane] & 31, c[lane] & 31, lane as u32);
        let last = (me & segment) | (clamp & !segment);
        let (from, ok) = match insn.x {
            0 => (me.wrapping_sub(by), me as i32 - by as i32 >= last as i32),
            1 => (me + by, me + by <= last),
            2 => (me ^ by, me ^ by <= last),
            _ => {
                let from = (me & segment) | (by & !segment);
                (from, from <= last)
            }
        };
        let from = if ok { from & 31 } else { me };
        inside |= u32::from(ok) << lane;
        absent |= (!mask >> from & 1) << lane;
        d[lane] = a[from as usize];
    }
    if absent & mask != 0 && ctx.grid.checks.uninitialised {
        let lane = (absent & mask).trailing_zeros() as usize;
        let place = ctx.place(insn.line, lane);
        let message = "shfl reads a lane that does not take part".into();
        return ctx.set_fault(Error::Fault { place, message });
    }
    // SAFETY: as above.
    unsafe {
        lanes::set_row(ctx, insn.d, mask, &d);
        lanes::set_predicate(ctx, insn.imm as u32, mask, inside);
    }
}

/// What `vote` tells: [`Insn::x`].
pub const VOTES: [&str; 4] = ["all", "any", "uni", "ballot"];

/// `vote.sync`: of predicate `a` (xor `imm`), by the member masks in row `c`.
pub unsafe fn vote(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    for group in groups(ctx, insn.c, mask) {
        // SAFETY: decoded words and rows, see `Handler`.
        unsafe {
            let ayes = (lanes::predicate(ctx, insn.a) ^ insn.imm as u32) & group;
            let holds = match insn.x {
                0 => ayes == group,
                1 => ayes != 0,
                2 => ayes == group || ayes == 0,
                _ => {
                    lanes::set_row(ctx, insn.d, group, &[ayes; LANES]);
                    continue;
                }
            };
            lanes::set_predicate(ctx, insn.d, group, if holds { u32::MAX } else { 0 });
        }
    }
}

/// `match.sync`: lanes with the same value in row `a`, by the member masks in row `c`. `x`: 0 any,
/// 1 all; predicate `imm`.
pub unsafe fn find_matches<T: Lane + PartialEq>(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    // SAFETY: decoded rows, see `Handler`.
    let a = unsafe { lanes::row::<T>(ctx, insn.a) };
    for group in groups(ctx, insn.c, mask) {
        let same =
            |lane: usize| lanes_of(group).filter(|&i| a[i] == a[lane]).fold(0, |m, i| m | 1 << i);
        let mut d = [0u32; LANES];
        let mut agree = 0;
        for lane in lanes_of(group) {
            d[lane] = same(lane);
            if insn.x == 1 {
                let all = d[lane] == group;
                agree |= u32::from(all) << lane;
                d[lane] = if all { group } else { 0 };
            }
        }
        // SAFETY: as above.
        unsafe {
            lanes::set_row(ctx, insn.d, group, &d);
            lanes::set_predicate(ctx, insn.imm as u32, group, agree);
        }
    }
}

/// `redux.sync`: all values of row `a` in one, by the member masks in row `c`.
pub unsafe fn reduce<T: Lane, F: Fn(T, T) -> T + Copy + 'static>(
    ctx: &mut Context<'_>,
    insn: &Insn,
    mask: u32,
) {
    let f = lanes::conjure::<F>();
    // SAFETY: decoded rows, see `Handler`.
    let a = unsafe { lanes::row::<T>(ctx, insn.a) };
    for group in groups(ctx, insn.c, mask) {
        let Some(total) = lanes_of(group).map(|i| a[i]).reduce(f) else { continue };
        // SAFETY: as above.
        unsafe { lanes::set_row(ctx, insn.d, group, &[total; LANES]) };
    }
}

/// The handler of `redux` for a function.
pub fn reducer<T: Lane, F: Fn(T, T) -> T + Copy + 'static>(_: F) -> crate::code::Handler {
    reduce::<T, F>
}

/// `activemask`: the lanes that execute it together.
pub unsafe fn active_mask(ctx: &mut Context<'_>, insn: &Insn, mask: u32) {
    // SAFETY: a decoded row, see `Handler`.
    unsafe { lanes::set_row(ctx, insn.d, mask, &[mask; LANES]) };
}

/// `bar.warp.sync`: what the lanes did to shared memory before is done.
pub unsafe fn warp_barrier(ctx: &mut Context<'_>, _: &Insn, _: u32) {
    ctx.shadow.next_warp_epoch(ctx.warp);
}

/// Fences and hints: memory is as strongly ordered as it can be, so there is nothing to do.
pub unsafe fn nothing(_: &mut Context<'_>, _: &Insn, _: u32) {}
