//! From the addresses of a warp's lanes to host pointers, with every check that memory has.
//!
//! Bounds of the arena, of shared and of local memory, and alignment are always checked, since the
//! interpreter itself would be unsafe without; what [`crate::Checks`] adds is the shadow: whose
//! memory it is, and whether it was written.

use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::race::{PENDING, UNWRITTEN};
use super::{Context, LOCAL_BASE, PARAM_BASE, SHARED_BASE, WINDOW};
use crate::code::{ALL, Insn, LANES};
use crate::error::{Access, Error};
use crate::memory::{self, GLOBAL_BASE};
use crate::profile::Way;
use crate::types::Space;

/// Host pointers of the lanes; only those of the mask that they were asked for are set.
pub type Pointers = [*mut u8; LANES];

/// What an instruction wants of memory.
#[derive(Clone, Copy)]
pub struct Request {
    /// State space of the addresses.
    pub space: Space,
    /// Bytes a lane: a power of two, at most 16.
    pub bytes: usize,
    /// How.
    pub access: Access,
}

impl Context<'_> {
    /// Host pointers of the lanes of `mask`, for `request.bytes` aligned bytes each; `None` after a
    /// fault.
    ///
    /// The pointers are valid until the block ends; those of global memory may only be used for
    /// atomic accesses.
    #[inline(always)]
    pub fn resolve(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<Pointers> {
        match request.space {
            Space::Global | Space::Const => self.global(insn, request, addresses, mask),
            Space::Shared => self.shared(insn, request, addresses, mask),
            Space::Local => self.local(insn, request, addresses, mask),
            Space::Param => self.param(insn, request, addresses, mask),
            Space::Generic => self.generic(insn, request, addresses, mask),
        }
    }

    fn generic(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<Pointers> {
        let mut result = [std::ptr::null_mut(); LANES];
        let mut left = mask;
        // Usually all lanes have the same space, and the first round is the last.
        while left != 0 {
            let space_of = |address: u64| match address {
                a if a.wrapping_sub(SHARED_BASE) < WINDOW => (Space::Shared, SHARED_BASE),
                a if a.wrapping_sub(LOCAL_BASE) < WINDOW => (Space::Local, LOCAL_BASE),
                a if a.wrapping_sub(PARAM_BASE) < WINDOW => (Space::Param, PARAM_BASE),
                _ => (Space::Global, 0),
            };
            let (space, base) = space_of(addresses[left.trailing_zeros() as usize]);
            let mut part = 0;
            let mut inside = *addresses;
            for lane in 0..LANES {
                part |= u32::from(space_of(addresses[lane]).0 == space) << lane;
                inside[lane] = addresses[lane].wrapping_sub(base);
            }
            part &= left;
            let pointers = self.resolve(insn, Request { space, ..request }, &inside, part)?;
            for lane in (0..LANES).filter(|lane| part >> lane & 1 != 0) {
                result[lane] = pointers[lane];
            }
            left &= !part;
        }
        Some(result)
    }

    #[inline(always)]
    fn global(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<Pointers> {
        let bytes = request.bytes as u64;
        let memory = self.grid.memory;
        // At least 256 bytes belong to a device, so this does not underflow.
        let last = memory.bytes() as u64 - bytes;
        let mut bad = 0u32;
        let mut pointers = [std::ptr::null_mut(); LANES];
        let start = memory.pointer();
        for lane in 0..LANES {
            let at = addresses[lane].wrapping_sub(GLOBAL_BASE);
            bad |= u32::from(at > last || at & (bytes - 1) != 0) << lane;
            pointers[lane] = start.wrapping_add(at as usize);
        }
        if bad & mask != 0 {
            self.bad_global(insn, request, addresses, bad & mask);
            return None;
        }
        if let Some(shadow) = memory.shadow() {
            self.global_shadow(insn, request, addresses, mask, shadow)?;
        }
        if self.grid.count {
            self.count_global(request, addresses, mask);
        }
        Some(pointers)
    }

    /// Asks the shadow about each lane's bytes, and marks what is written.
    #[inline(always)]
    fn global_shadow(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
        shadow: *mut u8,
    ) -> Option<()> {
        const GOOD: u64 = 0x0202_0202_0202_0202;
        const _: () = assert!(memory::WRITTEN == 2 && memory::UNWRITTEN == 1);
        let checks = self.grid.checks;
        for lane in 0..LANES {
            if mask >> lane & 1 == 0 {
                continue;
            }
            let at = (addresses[lane] - GLOBAL_BASE) as usize;
            let cell = shadow.wrapping_add(at);
            // SAFETY: the shadow is as large as the arena, in which `resolve` found these aligned
            // bytes; all threads touch it as atomics only.
            let all_written = unsafe {
                match request.bytes {
                    1 => AtomicU8::from_ptr(cell).load(Relaxed) == 2,
                    2 => AtomicU16::from_ptr(cell.cast()).load(Relaxed) == GOOD as u16,
                    4 => AtomicU32::from_ptr(cell.cast()).load(Relaxed) == GOOD as u32,
                    8 => AtomicU64::from_ptr(cell.cast()).load(Relaxed) == GOOD,
                    _ => {
                        AtomicU64::from_ptr(cell.cast()).load(Relaxed) == GOOD
                            && AtomicU64::from_ptr(cell.cast::<u64>().wrapping_add(1)).load(Relaxed)
                                == GOOD
                    }
                }
            };
            if all_written {
                continue;
            }
            for i in 0..request.bytes {
                // SAFETY: as above.
                let byte = unsafe { AtomicU8::from_ptr(cell.wrapping_add(i)) };
                let state = byte.load(Relaxed);
                match state {
                    memory::NOT_ALLOCATED | memory::FREED if checks.bounds => {
                        self.bad_global(insn, request, addresses, 1 << lane);
                        return None;
                    }
                    memory::NOT_ALLOCATED | memory::FREED => {}
                    memory::UNWRITTEN
                        if request.access != Access::Write && checks.uninitialised =>
                    {
                        let address = addresses[lane];
                        let error = Error::Uninitialised {
                            place: self.place(insn.line, lane),
                            space: "global",
                            address,
                            bytes: request.bytes,
                            nearby: self.grid.memory.nearby(address),
                        };
                        self.set_fault(error);
                        return None;
                    }
                    _ if request.access != Access::Read => byte.store(memory::WRITTEN, Relaxed),
                    _ => {}
                }
            }
        }
        Some(())
    }

    #[cold]
    #[inline(never)]
    fn bad_global(&mut self, insn: &Insn, request: Request, addresses: &[u64; LANES], bad: u32) {
        let lane = bad.trailing_zeros() as usize;
        let address = addresses[lane];
        let (access, bytes) = (request.access, request.bytes);
        let place = self.place(insn.line, lane);
        let memory = self.grid.memory;
        let error = if !address.is_multiple_of(bytes as u64) {
            Error::Misaligned { place, access, space: "global", address, bytes }
        } else {
            let nearby = memory.nearby(address);
            if memory.is_freed(address) {
                Error::UseAfterFree { place, access, address, bytes, nearby }
            } else {
                Error::OutOfBounds { place, access, space: "global", address, bytes, nearby }
            }
        };
        self.set_fault(error);
    }

    /// Offsets into an area of `size` bytes at `start(lane)`.
    #[inline(always)]
    fn inside(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
        size: usize,
        start: impl Fn(usize) -> *mut u8,
    ) -> Option<Pointers> {
        let bytes = request.bytes as u64;
        let size = size as u64;
        let mut bad = 0u32;
        let mut pointers = [std::ptr::null_mut(); LANES];
        for lane in 0..LANES {
            let at = addresses[lane];
            let outside = at > size || size - at.min(size) < bytes;
            bad |= u32::from(outside || at & (bytes - 1) != 0) << lane;
            pointers[lane] = start(lane).wrapping_add(at as usize);
        }
        if bad & mask != 0 {
            self.bad_inside(insn, request, addresses, bad & mask, size);
            return None;
        }
        Some(pointers)
    }

    #[cold]
    #[inline(never)]
    fn bad_inside(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        bad: u32,
        size: u64,
    ) {
        let lane = bad.trailing_zeros() as usize;
        let (address, bytes, access) = (addresses[lane], request.bytes, request.access);
        let place = self.place(insn.line, lane);
        let space = request.space.name();
        let error = if address >= size || size - address < bytes as u64 {
            let nearby = format!("there are {size} bytes");
            Error::OutOfBounds { place, access, space, address, bytes, nearby }
        } else {
            Error::Misaligned { place, access, space, address, bytes }
        };
        self.set_fault(error);
    }

    #[inline(always)]
    fn shared(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<Pointers> {
        let start = self.shared.as_mut_ptr().cast::<u8>();
        let size = self.shared_bytes;
        let pointers = self.inside(insn, request, addresses, mask, size, |_| start)?;
        if !self.shadow.state.is_empty() {
            self.shared_state(insn, request, addresses, mask)?;
            // Stores are looked at after they were done, when it is known which value is left.
            if self.shadow.looks_for_races() && request.access != Access::Write {
                self.race(insn, request, addresses, mask, 0)?;
            }
        }
        if self.grid.count {
            self.count_shared(request, addresses, mask);
        }
        Some(pointers)
    }

    fn shared_state(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<()> {
        let checks = self.grid.checks;
        let bytes = request.bytes;
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
            let at = addresses[lane] as usize;
            let states = &mut self.shadow.state[at..at + bytes];
            let pending = states.iter().fold(false, |p, &s| p | (s == PENDING));
            let unwritten = states.iter().fold(false, |u, &s| u | (s == UNWRITTEN));
            if request.access != Access::Read {
                states.fill(super::race::WRITTEN);
            }
            if pending && checks.races {
                let error = Error::SharedRace {
                    place: self.place(insn.line, lane),
                    access: request.access,
                    address: at as u64,
                    other_access: Access::Write,
                    other: "a cp.async that was not waited for (cp.async.wait_group)".into(),
                };
                self.set_fault(error);
                return None;
            }
            if unwritten && request.access != Access::Write && checks.uninitialised {
                let error = Error::Uninitialised {
                    place: self.place(insn.line, lane),
                    space: "shared",
                    address: at as u64,
                    bytes,
                    nearby: "nobody in the block has written it".into(),
                };
                self.set_fault(error);
                return None;
            }
        }
        Some(())
    }

    /// Notes who touches shared memory; lanes of `differing` wrote a value that is not there any
    /// more.
    pub fn race(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
        differing: u32,
    ) -> Option<()> {
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
            let thread = (self.warp * LANES + lane) as u16;
            let same = differing >> lane & 1 == 0;
            let range = (addresses[lane] as usize, request.bytes);
            if let Some(race) = self.shadow.touch(request.access, range, thread, insn.line, same) {
                let other = self.grid.thread(race.thread.into());
                let error = Error::SharedRace {
                    place: self.place(insn.line, lane),
                    access: request.access,
                    address: addresses[lane],
                    other_access: race.access,
                    other: format!(
                        "thread {other:?} on {}",
                        self.grid.code.sources.describe(race.line)
                    ),
                };
                self.set_fault(error);
                return None;
            }
        }
        Some(())
    }

    #[inline(always)]
    fn local(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<Pointers> {
        let size = self.grid.code.local_bytes;
        let start = self.local.as_mut_ptr().cast::<u8>();
        let first = self.warp * LANES;
        self.inside(insn, request, addresses, mask, size, |lane| {
            start.wrapping_add((first + lane) * size)
        })
    }

    fn param(
        &mut self,
        insn: &Insn,
        request: Request,
        addresses: &[u64; LANES],
        mask: u32,
    ) -> Option<Pointers> {
        if request.access != Access::Read {
            self.fail(insn, mask, "parameters of a kernel cannot be written");
            return None;
        }
        let start = self.grid.params.as_ptr().cast_mut().cast::<u8>();
        let size = self.grid.code.param_bytes;
        self.inside(insn, request, addresses, mask, size, |_| start)
    }

    /// Sectors of 32 bytes that a request touches.
    fn count_global(&mut self, request: Request, addresses: &[u64; LANES], mask: u32) {
        let mut sectors = [0u64; LANES];
        let mut n = 0;
        for lane in (0..LANES).filter(|lane| mask >> lane & 1 != 0) {
            sectors[n] = addresses[lane] / 32;
            n += 1;
        }
        let touched = &mut sectors[..n];
        touched.sort_unstable();
        let different = 1 + touched.windows(2).filter(|w| w[0] != w[1]).count() as u64;
        let bytes = (n * request.bytes) as u64;
        let way = match request.access {
            Access::Read => Way::GlobalLoad,
            Access::Write => Way::GlobalStore,
            Access::Atomic => Way::GlobalAtomic,
        };
        self.counters.request(way, bytes, different, bytes.div_ceil(32));
    }

    /// Wavefronts of a request: lanes go 32, 16 or 8 at a time with 4, 8 or 16 bytes each, and each
    /// group takes as many rounds as its most loaded bank has different words.
    fn count_shared(&mut self, request: Request, addresses: &[u64; LANES], mask: u32) {
        let words = request.bytes.div_ceil(4);
        let group = LANES / words.clamp(1, 4);
        let (mut rounds, mut ideal) = (0, 0);
        for first in (0..LANES).step_by(group) {
            let mut banks = [(0u32, [0u32; LANES]); LANES];
            let mut most = 0;
            for lane in (first..first + group).filter(|lane| mask >> lane & 1 != 0) {
                for word in 0..words as u32 {
                    let word = (addresses[lane] / 4) as u32 + word;
                    let (n, seen) = &mut banks[word as usize % LANES];
                    if !seen[..*n as usize].contains(&word) {
                        seen[*n as usize] = word;
                        *n += 1;
                        most = most.max(*n);
                    }
                }
            }
            rounds += u64::from(most);
            ideal += u64::from(most > 0);
        }
        let bytes = u64::from(mask.count_ones()) * request.bytes as u64;
        let way = if request.access == Access::Read { Way::SharedLoad } else { Way::SharedStore };
        self.counters.request(way, bytes, rounds, ideal);
    }
}

/// Whether all lanes are active.
#[inline(always)]
pub fn is_full(mask: u32) -> bool {
    mask == ALL
}
