//! What the figures were taken on.

use std::fs;

/// One sentence about the machine.
pub(super) fn describe() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let model = field("model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let virtual_machine =
        field("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<_> = kernel.trim().split('.').take(2).collect();
    format!(
        "Machine of this run: {cpus} × {model}{}, {} GiB of memory, Linux {}, {}.\n\n",
        if virtual_machine { " (virtual)" } else { "" },
        memory_gib(),
        kernel.join("."),
        env!("BENCHES_RUSTC"),
    )
}

fn memory_gib() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.trim().trim_end_matches(" kB").parse::<u64>().ok());
    // Part of the memory belongs to the kernel from the start, so round up.
    kib.unwrap_or(0).div_ceil(1 << 20)
}
