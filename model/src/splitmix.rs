//! SplitMix64 (Steele, Lea and Flood, 2014): the same numbers on every machine and in every version, from integers alone.

/// A stream of random numbers: a counter, mixed.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream that belongs to `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One of two, alike likely.
    pub fn bit(&mut self) -> bool {
        self.next_u64() >> 63 == 1
    }

    /// A number in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index below `n`; 0 when there is none.
    pub fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }

    /// Standard normal values, nearly: twelve uniforms added.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_generator() {
        // First outputs of the reference implementation from the seed 0.
        let mut random = SplitMix64::new(0);
        assert_eq!([random.next_u64(), random.next_u64()], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }

    #[test]
    fn numbers_have_the_promised_ranges_and_moments() {
        let mut random = SplitMix64::new(7);
        let (mut ones, mut seen, mut sum, mut squares) = (0, [0; 5], 0.0, 0.0);
        for _ in 0..10_000 {
            ones += usize::from(random.bit());
            seen[random.below(5)] += 1;
            let normal = random.normal();
            (sum, squares) = (sum + normal, squares + normal * normal);
            assert!((0.0..1.0).contains(&random.uniform()));
        }
        assert!((4800..5200).contains(&ones), "{ones}");
        assert!(seen.iter().all(|n| (1850..2150).contains(n)), "{seen:?}");
        assert!((sum / 1e4).abs() < 0.03 && (squares / 1e4 - 1.0).abs() < 0.05, "{sum}, {squares}");
        assert_eq!(random.below(0), 0);
    }
}
