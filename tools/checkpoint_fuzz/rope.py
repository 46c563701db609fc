"""Rotary settings: what kinds there are, and every way in which config.json has ever spelled them."""

from plan import DEFAULT_THETA

# Keys that hold the length of the first training phase, wherever it is written.
ORIGINAL = "original_max_position_embeddings"


def draw(plan, odd):
    """Chooses a kind of scaling; `plan.rope` becomes what transformers resolves it to."""
    kind = odd.weighted("rope", default=45, linear=17, llama3=20, dynamic=4, yarn=4, longrope=3, proportional=1, mrope=1)
    more = {}
    if kind == "linear":
        more["factor"] = odd.pick(2.0, 4, 1.0, 1, 0.5, 8.0, 1.5)
    elif kind == "llama3":
        more = {"factor": odd.pick(8.0, 32, 2.0), "low_freq_factor": odd.pick(1.0, 1, 1.5),
                "high_freq_factor": odd.pick(4.0, 4, 2.0), ORIGINAL: odd.pick(8, 16, 32, 48)}
        if odd.maybe(0.03, "rope:llama3-bands-swapped"):
            more["low_freq_factor"], more["high_freq_factor"] = 4.0, 1.0
    elif kind == "dynamic":
        more["factor"] = odd.pick(2.0, 4.0)
        plan.max_position_embeddings = odd.pick(16, 32, 128)
    elif kind == "yarn":
        more = {"factor": odd.pick(2.0, 8.0), ORIGINAL: odd.pick(16, 32)}
        if odd.maybe(0.5):
            more |= {"beta_fast": 16, "beta_slow": 2}
    elif kind == "longrope":
        half = plan.head_dim // 2
        more = {"short_factor": [1.0 + 0.1 * i for i in range(half)], "long_factor": [2.0 + i for i in range(half)],
                ORIGINAL: odd.pick(16, 256)}
    elif kind == "proportional":
        more["factor"] = 4.0
    elif kind == "mrope":
        more["mrope_section"] = [1, 1, plan.head_dim // 2 - 2]
    if kind not in ("default", "linear", "llama3"):
        odd.intent = False
    plan.rope = {"rope_type": kind, "rope_theta": plan.rope["rope_theta"]} | more


def spell(config, plan, odd):
    """Writes `plan.rope` into `config`."""
    rope = dict(plan.rope)
    kind, theta = rope.pop("rope_type"), rope.pop("rope_theta")
    if theta == int(theta) and odd.maybe(0.4, "rope:whole-theta"):
        theta = int(theta)
    section = kind_keys(kind, odd) | rope
    if ORIGINAL in rope:
        place_original(config, section, plan, odd)
    if kind == "default" and odd.maybe(0.1, "rope:junk"):
        section |= odd.pick({"factor": 2.0}, {"mrope_section": [1, 1, 2]}, {ORIGINAL: 32}, {"partial_rotary_factor": 1.0},
                            {"factor": None}, {"attention_factor": 1.5}, {"low_freq_factor": 1.0})
    if odd.maybe(0.03, "rope:null-inside"):
        section["attention_factor"] = None

    style = odd.weighted("rope-style", old=24, new=24, new_theta_outside=8, new_stale_theta=8, old_theta_inside=6, both=8,
                         same_in_both=5, new_beside_empty=8)
    stale = odd.pick(77.0, 500000.0, 10000)
    if style == "old":
        if theta != DEFAULT_THETA or odd.maybe(0.5):
            config["rope_theta"] = theta
        else:
            odd.tag("rope:no-theta")
        if kind != "default" or len(section) > 1 or odd.maybe(0.2, "rope:default-spelled"):
            config["rope_scaling"] = section
        elif odd.maybe(0.5):
            config["rope_scaling"] = odd.pick(None, None, {})
    elif style == "new":
        if theta != DEFAULT_THETA or odd.maybe(0.6):
            section["rope_theta"] = theta
        else:
            odd.tag("rope:no-theta")
        config["rope_parameters"] = section
    elif style == "new-theta-outside":
        config |= {"rope_parameters": section, "rope_theta": theta}
    elif style == "new-stale-theta":
        config |= {"rope_theta": stale, "rope_parameters": section | {"rope_theta": theta}}
    elif style == "old-theta-inside":
        config["rope_scaling"] = section | {"rope_theta": theta}
        if odd.maybe(0.5):
            config["rope_theta"] = stale
    elif style == "both":
        # transformers 5 takes `rope_scaling or rope_parameters`, and only theta from elsewhere.
        section = section or {"rope_type": kind}
        config["rope_scaling"] = section
        config["rope_parameters"] = {"rope_type": "linear", "factor": 3.0, "rope_theta": stale}
        if odd.maybe(0.3):
            config["rope_parameters"] = {"rope_type": "default", "rope_theta": stale}
        config["rope_theta"] = theta
        if odd.maybe(0.4):
            config["rope_scaling"] = section | {"rope_theta": theta}
            config["rope_theta"] = stale
    elif style == "same-in-both":
        config |= {"rope_scaling": section, "rope_parameters": dict(section) | {"rope_theta": theta}, "rope_theta": theta}
    else:
        config |= {"rope_scaling": odd.pick(None, None, {}, {}, False, []), "rope_parameters": section | {"rope_theta": theta}}
        if odd.maybe(0.3):
            config["rope_theta"] = stale


def kind_keys(kind, odd):
    """The kind as `rope_type`, as `type` of old files, or both; of two that differ `rope_type` counts."""
    style = odd.weighted("rope-key", rope_type=50, type=30, both=15, stale_type=5)
    if kind == "default" and odd.maybe(0.15, "rope:no-kind"):
        return {}
    if style == "stale-type":
        return {"type": "linear" if kind != "linear" else "dynamic", "rope_type": kind}
    return {key: kind for key in (["rope_type", "type"] if style == "both" else [style.replace("-", "_")])}


def place_original(config, section, plan, odd):
    """`original_max_position_embeddings`: the one outside the section wins, the context stands in for none."""
    place = odd.weighted("rope-original", inside=60, outside=15, both_differ=10, absent=15)
    if place == "outside":
        config[ORIGINAL] = section.pop(ORIGINAL)
    elif place == "both-differ":
        config[ORIGINAL] = section[ORIGINAL]
        section[ORIGINAL] = odd.pick(4, 64, 1000)
    elif place == "absent":
        section.pop(ORIGINAL)
        plan.max_position_embeddings = odd.pick(64, 72)
        plan.rope[ORIGINAL] = plan.max_position_embeddings
