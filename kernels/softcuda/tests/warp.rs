//! What lanes do together: shuffles, votes, matches, reductions, named barriers, atomics.

mod common;

use common::*;

fn all(body: &str) -> Vec<u32> {
    let body = format!("{body}\nst.global.u32 [%d0], %r1;");
    lanes(32, &[], &body).unwrap_or_else(|e| panic!("{e}\n{body}"))
}

fn by_lane(f: impl Fn(u32) -> u32) -> Vec<u32> {
    (0..32).map(f).collect()
}

#[test]
fn shuffles() {
    assert_eq!(all("shfl.sync.bfly.b32 %r1, %r0, 5, 31, -1;"), by_lane(|i| i ^ 5));
    assert_eq!(all("shfl.sync.idx.b32 %r1, %r0, 7, 31, -1;"), by_lane(|_| 7));
    let up = by_lane(|i| if i >= 3 { i - 3 } else { i });
    assert_eq!(all("shfl.sync.up.b32 %r1, %r0, 3, 0, -1;"), up);
    // Segments of 8 lanes: the mask is 0x18, the clamp 31.
    let down = by_lane(|i| if i % 8 < 6 { i + 2 } else { i + 100 });
    let body = "shfl.sync.down.b32 %r1|%p1, %r0, 2, 0x181f, -1; @!%p1 add.u32 %r1, %r1, 100;";
    assert_eq!(all(body), down);
}

#[test]
fn votes_matches_and_reductions() {
    let body = "and.b32 %r2, %r0, 3; setp.eq.u32 %p1, %r2, 0; vote.sync.ballot.b32 %r1, %p1, -1;";
    assert_eq!(all(body), by_lane(|_| 0x1111_1111));
    let body =
        "setp.lt.u32 %p1, %r0, 40; vote.sync.all.pred %p2, %p1, -1; selp.u32 %r1, 1, 0, %p2;";
    assert_eq!(all(body), by_lane(|_| 1));
    let body = "rem.u32 %r2, %r0, 3; match.any.sync.b32 %r1, %r2, -1;";
    let same = |i: u32| (0..32).filter(|j| j % 3 == i % 3).fold(0, |m, j| m | 1 << j);
    assert_eq!(all(body), by_lane(same));
    assert_eq!(all("redux.sync.add.u32 %r1, %r0, -1;"), by_lane(|_| 496));
    assert_eq!(
        all("sub.u32 %r2, 3, %r0; redux.sync.min.s32 %r1, %r2, -1;"),
        by_lane(|_| -28i32 as u32)
    );
    // Each half by itself, with its own mask.
    let body = "setp.lt.u32 %p1, %r0, 16; selp.b32 %r2, 0xffff, 0xffff0000, %p1; redux.sync.max.u32 %r1, %r0, %r2;";
    assert_eq!(all(body), by_lane(|i| if i < 16 { 15 } else { 31 }));
}

#[test]
fn lanes_that_come_apart_wait_at_a_shuffle() {
    // Odd lanes do some more work first; the shuffle needs all of them.
    let body = "and.b32 %r2, %r0, 1; setp.eq.u32 %p1, %r2, 0; mov.u32 %r3, 1; @%p1 bra $meet;
        mov.u32 %r4, 0; $loop: add.u32 %r3, %r3, 1; add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, %r0; @%p2 bra $loop;
        $meet: shfl.sync.bfly.b32 %r1, %r3, 1, 31, -1;";
    assert_eq!(all(body), by_lane(|i| if i % 2 == 0 { i + 2 } else { 1 }));
}

#[test]
fn barriers_reduce_and_have_names() {
    let body = "setp.lt.u32 %p1, %r0, 10; bar.red.popc.u32 %r1, 0, %p1;
        st.global.u32 [%d0], %r1;";
    assert_eq!(lanes(64, &[], body).expect("runs"), vec![10; 64]);
    // The first warp produces, the second consumes: bar.arrive and bar.sync of 64 threads.
    let body =
        ".shared .align 4 .b8 word[4]; setp.ge.u32 %p1, %r0, 32; mov.u32 %r1, 5; @%p1 bra $consume;
        setp.eq.u32 %p2, %r0, 0; @%p2 st.shared.u32 [word], 77; bar.arrive 1, 64; bra $end;
        $consume: bar.sync 1, 64; ld.shared.u32 %r1, [word];
        $end: st.global.u32 [%d0], %r1;";
    let words = lanes(64, &[], body).expect("runs");
    assert_eq!(words, [vec![5; 32], vec![77; 32]].concat());
}

#[test]
fn atomics() {
    let device = checked();
    let cells = upload(&device, &[0, 100, 0, u32::MAX, 0, 0, 1f32.to_bits(), 0x3c00_3c00]);
    let text = module(
        1,
        "ld.param.u64 %d0, [p0]; mov.u32 %r0, %tid.x;
         red.global.add.u32 [%d0], 1; atom.global.min.s32 %r1, [%d0+4], %r0; red.global.max.u32 [%d0+8], %r0;
         red.global.and.b32 [%d0+12], -2; red.global.or.b32 [%d0+16], %r0; atom.global.inc.u32 %r2, [%d0+20], 4;
         red.global.add.f32 [%d0+24], 0f3F000000; mov.b32 %r3, 0x3c000000;
         red.global.add.noftz.f16x2 [%d0+28], %r3;",
    );
    run(&device, &text, 4, [64, 1, 1], &[cells]).expect("runs");
    let words = download(&device, cells, 8);
    let two_hundred_and_fifty_seven = half::f16::from_f32(257.0).to_bits();
    let f16s = u32::from(two_hundred_and_fifty_seven) << 16 | 0x3c00;
    assert_eq!(words[..5], [256, 0, 63, u32::MAX - 1, 63]);
    assert_eq!(words[5..], [256 % 5, 129f32.to_bits(), f16s]);
}
