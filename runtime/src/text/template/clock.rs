//! The date that `strftime_now` shows.

use minijinja::{Error, ErrorKind};
use std::{fmt::Write, time::SystemTime};

/// A date and a time of day, in whatever zone the caller lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// Year of the Gregorian calendar.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const DAYS_TO_1970: i64 = 719_468;

impl CivilTime {
    /// The system's clock, in UTC.
    #[must_use]
    pub fn now_utc() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::from_unix(i64::try_from(since.as_secs()).unwrap_or(0))
    }

    /// From seconds since 1970-01-01 00:00, for times within some millions of years of it.
    ///
    /// Callers with a time zone add its offset to the seconds.
    #[must_use]
    pub fn from_unix(seconds: i64) -> Self {
        const MOST_SECONDS: i64 = 60_000_000_000_000;
        let seconds = seconds.clamp(-MOST_SECONDS, MOST_SECONDS);
        let of_day = seconds.rem_euclid(86_400);
        // Eras of 400 years, the year starting in March so that the leap day is its last.
        let days = seconds.div_euclid(86_400) + DAYS_TO_1970;
        let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: (year_of_era + 400 * era) as i32 + i32::from(month <= 2),
            month: month as u8,
            day: (of_year - (153 * shifted_month + 2) / 5 + 1) as u8,
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// Days since 1970-01-01.
    fn days(self) -> i64 {
        let month = i64::from(self.month.clamp(1, 12));
        let year = i64::from(self.year) - i64::from(month <= 2);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(self.day) - 1;
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - DAYS_TO_1970
    }

    /// As Python's `strftime` in the C locale.
    pub(super) fn format(self, format: &str) -> Result<String, Error> {
        let mut out = String::with_capacity(format.len());
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut code = chars.next();
            let padded = code != Some('-');
            if !padded {
                code = chars.next();
            }
            let known = code.is_some_and(|code| self.directive(code, padded, &mut out).is_some());
            if !known {
                let what = code.map_or_else(|| "%".to_owned(), |c| format!("%{c}"));
                return Err(Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {what}")));
            }
        }
        Ok(out)
    }

    fn directive(self, code: char, padded: bool, out: &mut String) -> Option<()> {
        let weekday = (self.days() + 4).rem_euclid(7) as usize;
        let new_year = Self { month: 1, day: 1, ..self };
        let day_of_year = self.days() - new_year.days() + 1;
        let hour12 = (self.hour + 11) % 12 + 1;
        let month_name = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
        let number = |out: &mut String, value: i64, width: usize, fill: char| match (padded, fill) {
            (false, _) => write!(out, "{value}").ok(),
            (true, ' ') => write!(out, "{value:>width$}").ok(),
            (true, _) => write!(out, "{value:0>width$}").ok(),
        };
        match code {
            'Y' => write!(out, "{}", self.year).ok(),
            'y' => number(out, i64::from(self.year.rem_euclid(100)), 2, '0'),
            'm' => number(out, self.month.into(), 2, '0'),
            'd' => number(out, self.day.into(), 2, '0'),
            'e' => number(out, self.day.into(), 2, ' '),
            'H' => number(out, self.hour.into(), 2, '0'),
            'I' => number(out, hour12.into(), 2, '0'),
            'M' => number(out, self.minute.into(), 2, '0'),
            'S' => number(out, self.second.into(), 2, '0'),
            'f' => out.write_str("000000").ok(),
            'j' => number(out, day_of_year, 3, '0'),
            'w' => number(out, weekday as i64, 1, '0'),
            'u' => number(out, if weekday == 0 { 7 } else { weekday as i64 }, 1, '0'),
            'p' => out.write_str(if self.hour < 12 { "AM" } else { "PM" }).ok(),
            'B' => out.write_str(month_name).ok(),
            'b' | 'h' => out.write_str(&month_name[..3]).ok(),
            'A' => out.write_str(DAYS[weekday]).ok(),
            'a' => out.write_str(&DAYS[weekday][..3]).ok(),
            'F' => self.several(&["Y-", "m-", "d"], out),
            'D' | 'x' => self.several(&["m/", "d/", "y"], out),
            'T' | 'X' => self.several(&["H:", "M:", "S"], out),
            'R' => self.several(&["H:", "M"], out),
            'c' => self.several(&["a ", "b ", "e ", "H:", "M:", "S ", "Y"], out),
            'n' => out.write_str("\n").ok(),
            't' => out.write_str("\t").ok(),
            '%' => out.write_str("%").ok(),
            // A time without a zone.
            'z' | 'Z' => Some(()),
            _ => None,
        }
    }

    /// Directives, each with what follows it.
    fn several(self, parts: &[&str], out: &mut String) -> Option<()> {
        for part in parts {
            let mut chars = part.chars();
            self.directive(chars.next()?, true, out)?;
            out.push_str(chars.as_str());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_calendar() {
        let date = |seconds| CivilTime::from_unix(seconds).format("%Y-%m-%d %H:%M:%S %a %j").unwrap();
        // From Python's datetime.
        assert_eq!(date(0), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 Mon 059");
        assert_eq!(date(951_868_800), "2000-03-01 00:00:00 Wed 061");
        assert_eq!(date(4_107_542_399), "2100-02-28 23:59:59 Sun 059");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 Mon 060");
        assert_eq!(date(-1), "1969-12-31 23:59:59 Wed 365");
        for seconds in [i64::MIN, i64::MAX] {
            assert!(!date(seconds).is_empty());
        }
        for day in (-800_000..800_000).step_by(37) {
            assert_eq!(CivilTime::from_unix(day * 86_400).days(), day);
        }
    }

    #[test]
    fn formats_like_python() {
        let time = CivilTime { year: 2026, month: 7, day: 4, hour: 15, minute: 30, second: 5 };
        for (format, expected) in [
            ("%d %b %Y", "04 Jul 2026"),
            ("%A, %B %-d, %Y", "Saturday, July 4, 2026"),
            ("%I:%M %p %e|%y|%u%w|%%", "03:30 PM  4|26|66|%"),
            ("%F %T %D %R", "2026-07-04 15:30:05 07/04/26 15:30"),
            ("%c", "Sat Jul  4 15:30:05 2026"),
            ("%-m/%-d/%-H é", "7/4/15 é"),
        ] {
            assert_eq!(time.format(format).unwrap(), expected);
        }
        for bad in ["%", "%-", "%Q", "%é"] {
            assert!(time.format(bad).unwrap_err().to_string().contains("strftime_now"));
        }
    }
}
