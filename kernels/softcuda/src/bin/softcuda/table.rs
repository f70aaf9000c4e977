//! A profile as a table.

use tilegrad_softcuda::Profile;

fn count(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|c| std::str::from_utf8(c).unwrap_or("")).collect();
    groups.join(" ")
}

fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

/// Prints a kernel's counters.
pub fn print(kernel: &str, profile: &Profile, seconds: f64) {
    let all = profile.total();
    println!("{kernel}: {} blocks, {} threads", count(profile.blocks), count(profile.threads));
    println!();
    println!("{:<28} {:>16} {:>18} {:>7}", "instructions", "warps", "lanes", "share");
    let mut kinds = profile.instructions.clone();
    kinds.sort_by_key(|(_, executed)| std::cmp::Reverse(executed.warps));
    for (class, executed) in kinds {
        let share = percent(executed.warps, all.warps);
        let name = format!("{class:?}");
        println!(
            "  {name:<26} {:>16} {:>18} {share:>6.1}%",
            count(executed.warps),
            count(executed.lanes)
        );
    }
    println!("  {:<26} {:>16} {:>18}", "all", count(all.warps), count(all.lanes));
    println!();
    let traffic = [
        ("global loads", profile.global_load, "sectors"),
        ("global stores", profile.global_store, "sectors"),
        ("global atomics", profile.global_atomic, "sectors"),
        ("shared loads", profile.shared_load, "wavefronts"),
        ("shared stores", profile.shared_store, "wavefronts"),
    ];
    println!(
        "{:<18} {:>14} {:>16} {:>26} {:>10} {:>10}",
        "memory", "requests", "bytes", "moved", "a request", "ideal"
    );
    for (name, of, unit) in traffic {
        let (requests, bytes, units, ideal) = (of.requests, of.bytes, of.units, of.ideal);
        let a_request = units as f64 / requests.max(1) as f64;
        let best = ideal as f64 / requests.max(1) as f64;
        let moved = format!("{} {unit}", count(units));
        println!(
            "  {name:<16} {:>14} {:>16} {moved:>26} {a_request:>10.2} {best:>10.2}",
            count(requests),
            count(bytes)
        );
    }
    println!();
    let conflicts = profile.shared_load.conflicts() + profile.shared_store.conflicts();
    let rows = [
        ("lanes that worked", format!("{:.1}%", 100.0 * profile.lane_utilisation())),
        ("bank conflicts", format!("{} extra wavefronts", count(conflicts))),
        (
            "divergent branches",
            format!("{} of {}", count(profile.divergent_branches), count(profile.branches)),
        ),
        ("FLOPs", count(profile.flops)),
        ("bytes of global memory", count(profile.global_bytes())),
        ("arithmetic intensity", format!("{:.2} FLOPs a byte", profile.arithmetic_intensity())),
        (
            "speed of softcuda",
            format!("{:.1} million lane-instructions a second", all.lanes as f64 / seconds / 1e6),
        ),
    ];
    rows.iter().for_each(|(name, value)| println!("{name:<28} {value}"));
}
