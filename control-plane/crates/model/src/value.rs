//! The small values of the language: durations, sizes, rates, percents, addresses, dates, secret references.
//!
//! Pure text in, value out; the message of an error says what would be right.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::node::FILE_TAG;

/// `250ms 5s 2m 1h 1d`, and sums of them: `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write 250ms, 5s, 2m, 1h or 1d");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        // A hundred years is more than anyone means, and far from any overflow.
        if !number.is_finite() || number * seconds > 3.2e9 {
            return Err(wrong());
        }
        total += Duration::from_micros((number * seconds * 1e6).round() as u64);
        rest = tail;
    }
    Ok(total)
}

/// `512`, `64KiB`, `1MiB`, `2GiB`; `kB`, `MB`, `GB` are powers of ten.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write 512B, 64KiB, 1MiB or 2GiB");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "Ki" => 1 << 10,
        "MiB" | "Mi" => 1 << 20,
        "GiB" | "Gi" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(wrong)
}

/// In hundredths of a percent, so that `0.25%` is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percent(pub u32);

impl Percent {
    pub const ALL: Percent = Percent(10_000);
}

/// `50%`, `0.5%`.
pub fn percent(text: &str) -> Result<Percent, String> {
    let wrong = || format!("`{text}` is not a percentage from 0% to 100%: write 50%");
    let number: f64 = text.strip_suffix('%').ok_or_else(wrong)?.trim().parse().map_err(|_| wrong())?;
    if !(0.0..=100.0).contains(&number) {
        return Err(wrong());
    }
    Ok(Percent((number * 100.0).round() as u32))
}

/// `125%`: a share that may be more than the whole; in hundredths of a percent, at most ten times the whole.
pub fn share(text: &str) -> Result<Percent, String> {
    let wrong = || format!("`{text}` is not a percentage from 0% to 1000%: write 125%");
    let number: f64 = text.strip_suffix('%').ok_or_else(wrong)?.trim().parse().map_err(|_| wrong())?;
    if !(0.0..=1000.0).contains(&number) {
        return Err(wrong());
    }
    Ok(Percent((number * 100.0).round() as u32))
}

/// In thousandths, so that `1.9` is exact and comparable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal(pub u32);

impl Decimal {
    pub fn value(self) -> f64 {
        f64::from(self.0) / 1000.0
    }
}

/// `1`, `1.5`; at most a million, three places.
pub fn decimal(text: &str) -> Result<Decimal, String> {
    let wrong = || format!("`{text}` is not a number like 1.5");
    let number: f64 = text.parse().map_err(|_| wrong())?;
    if !(0.0..=1e6).contains(&number) {
        return Err(wrong());
    }
    Ok(Decimal((number * 1000.0).round() as u32))
}

/// So many in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub per: Duration,
}

/// `60/min`, `5/s`, `1000/day`.
pub fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || format!("`{text}` is not a rate: write 60/min");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let count: u32 = count.trim().parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?;
    let seconds = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "hour" => 3600,
        "day" => 86400,
        other => return Err(format!("unknown rate unit `{other}`: use s, min, hour or day")),
    };
    Ok(Rate { count, per: Duration::from_secs(seconds) })
}

/// An address range, `10.0.0.0/8`; a lone address is a range of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

pub fn network(text: &str) -> Result<Network, String> {
    let wrong = || format!("`{text}` is not an address or a network: write 192.0.2.1 or 10.0.0.0/8");
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    match prefix.unwrap_or(most) {
        prefix if prefix <= most => Ok(Network { address, prefix }),
        _ => Err(wrong()),
    }
}

/// Where to listen. `:8080` is every IPv4 address.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse()
        .map_err(|_| format!("`{text}` is not an address to listen on: write :8080, 127.0.0.1:8080 or [::]:8080"))
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

impl HostPort {
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// `10.0.0.1:80`, `[::1]:80`, `app.internal:8080`.
pub fn host_port(text: &str) -> Result<HostPort, String> {
    let wrong = || format!("`{text}` is not an address with a port: write 10.0.0.1:8080 or app.internal:8080");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|p| *p > 0).ok_or_else(wrong)?;
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?.to_string(),
        None => host.to_owned(),
    };
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > 253 || !(host.chars().all(name) || host.parse::<IpAddr>().is_ok()) {
        return Err(wrong());
    }
    Ok(HostPort { host, port })
}

/// A day, as the unix time of its first second (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    pub unix: i64,
}

/// `2027-03-01`.
pub fn date(text: &str) -> Result<Date, String> {
    let wrong = || format!("`{text}` is not a date: write 2027-03-01");
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return Err(wrong()) };
    let (Ok(year), Ok(month), Ok(day)) = (year.parse::<i64>(), month.parse::<i64>(), day.parse::<i64>()) else {
        return Err(wrong());
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=days[month as usize - 1]).contains(&day) {
        return Err(wrong());
    }
    // Days since 1970-01-01 in the proleptic Gregorian calendar, counting years from March.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Ok(Date { unix: (era * 146_097 + day_of_era - 719_468) * 86_400 })
}

/// What a secret-bearing text refers to: a path or `${NAME}`. None: it is the secret itself, as PEM text.
pub fn secret_reference(text: &str) -> Option<&str> {
    if let Some(path) = text.strip_prefix(FILE_TAG) {
        return Some(path);
    }
    (!text.contains("-----BEGIN ")).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_written() {
        for (text, expected) in [
            ("250ms", Some(250)),
            ("5s", Some(5_000)),
            ("1.5s", Some(1_500)),
            ("1h30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("0s", Some(0)),
            ("5", None),
            ("", None),
            ("5x", None),
            ("s", None),
            ("99999999999999h", None),
            ("-1s", None),
            ("1..5s", None),
        ] {
            assert_eq!(duration(text).ok().map(|d| d.as_millis()), expected, "{text}");
        }
    }

    #[test]
    fn sizes_read_as_written() {
        for (text, expected) in [
            ("512", Some(512)),
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("1MB", Some(1_000_000)),
            ("1 MiB", Some(1 << 20)),
            ("MiB", None),
            ("-1", None),
            ("99999999999GiB", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn rates_and_percents_read_as_written() {
        assert_eq!(rate("60/min"), Ok(Rate { count: 60, per: Duration::from_secs(60) }));
        assert_eq!(rate("60/minute"), Err("unknown rate unit `minute`: use s, min, hour or day".into()));
        assert!(rate("0/s").is_err());
        assert_eq!(percent("0.25%"), Ok(Percent(25)));
        assert!(percent("101%").is_err() && percent("50").is_err() && percent("NaN%").is_err());
        assert_eq!(share("125%"), Ok(Percent(12_500)));
        assert!(share("1001%").is_err() && share("x%").is_err());
        assert_eq!(decimal("1.9"), Ok(Decimal(1900)));
        assert!(decimal("-1").is_err() && decimal("NaN").is_err() && decimal("1e9").is_err());
    }

    #[test]
    fn addresses_read_as_written() {
        assert_eq!(listen_address(":80").map(|a| a.to_string()), Ok("0.0.0.0:80".into()));
        assert_eq!(listen_address("[::]:80").map(|a| a.to_string()), Ok("[::]:80".into()));
        assert!(listen_address("localhost:80").is_err() && listen_address(":99999").is_err());
        assert_eq!(host_port("[::1]:80").map(|h| h.host), Ok("::1".into()));
        for bad in ["app", "app:0", ":80", "a b:80", "::1:80x", "[zz]:1"] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
        assert_eq!(network("10.0.0.0/8").map(|n| n.prefix), Ok(8));
        assert_eq!(network("::1").map(|n| n.prefix), Ok(128));
        assert!(network("10.0.0.0/33").is_err());
    }

    #[test]
    fn dates_become_unix_times() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(951_782_400)),
            ("2026-09-01", Some(1_788_220_800)),
            ("2027-03-01", Some(1_803_859_200)),
            ("2027-02-29", None),
            ("2027-13-01", None),
            ("yesterday", None),
        ] {
            assert_eq!(date(text).ok().map(|d| d.unix), expected, "{text}");
        }
    }
}
