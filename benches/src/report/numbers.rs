//! How numbers look.

use std::time::Duration;

/// A time, with three significant digits and its unit.
pub(super) fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        small if small < 1e3 => return format!("{small:.0} ns"),
        medium if medium < 1e6 => (medium / 1e3, "µs"),
        large => (large / 1e6, "ms"),
    };
    format!("{} {unit}", significant(value))
}

/// A number with three significant digits, or more if they are before the point.
pub(super) fn significant(value: f64) -> String {
    match value {
        small if small < 10.0 => format!("{small:.2}"),
        medium if medium < 100.0 => format!("{medium:.1}"),
        large => format!("{large:.0}"),
    }
}

/// A whole number, with thin groups of thousands.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.char_indices() {
        if index != 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A size in bytes, in the largest unit that divides it.
pub(super) fn size(bytes: usize) -> String {
    match bytes {
        mebibytes if mebibytes % (1 << 20) == 0 => format!("{} MiB", mebibytes >> 20),
        kibibytes if kibibytes % (1 << 10) == 0 => format!("{} KiB", kibibytes >> 10),
        bytes => format!("{bytes} B"),
    }
}

/// A duration that was chosen, in milliseconds or seconds.
pub(super) fn chosen(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_carry_their_unit() {
        assert_eq!(time(123.4), "123 ns");
        assert_eq!(time(1_234.0), "1.23 µs");
        assert_eq!(time(45_678.0), "45.7 µs");
        assert_eq!(time(1_234_567.0), "1.23 ms");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(1.0), "1");
        assert_eq!(grouped(123_456.0), "123,456");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }

    #[test]
    fn sizes_use_the_largest_unit() {
        assert_eq!(size(64), "64 B");
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(4 << 20), "4 MiB");
    }
}
