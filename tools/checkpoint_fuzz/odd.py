"""Choices of one case: a random generator that remembers, as tags, every odd thing that it chose."""

from plan import chance, pick


class Odd:
    """`tags` say what is odd; `intent` turns false where a checkpoint contradicts itself, so that only transformers can
    say what it means."""

    def __init__(self, rng):
        self.rng = rng
        self.tags = set()
        self.intent = True

    def maybe(self, probability, tag=None):
        """True with this probability; remembers `tag` then."""
        hit = chance(self.rng, probability)
        if hit and tag:
            self.tags.add(tag)
        return hit

    def pick(self, *choices):
        return pick(self.rng, *choices)

    def tagged(self, group, *choices):
        """One of the names, remembered as `group:name`."""
        name = self.pick(*choices)
        self.tags.add(f"{group}:{name}")
        return name

    def weighted(self, group, **weights):
        """As `tagged`, with a weight for each name (an underscore stands for a hyphen)."""
        names, shares = list(weights), list(weights.values())
        name = names[self.rng.choice(len(names), p=[s / sum(shares) for s in shares])].replace("_", "-")
        self.tags.add(f"{group}:{name}")
        return name

    def tag(self, tag):
        self.tags.add(tag)

    def contradiction(self, tag):
        self.tags.add(tag)
        self.intent = False
