"""Options that users type: what is refused, and with which words."""

import pytest
from netaddr import IPAddress

from pynetdriver.backends import NAMES, backend_named
from pynetdriver.backends.bridge import BridgeOptions as Options
from pynetdriver.errors import InvalidOption
from pynetdriver.options import declared, parse_options

MTU = "com.docker.network.driver.mtu"


def test_options_are_the_defaults_when_nothing_is_typed() -> None:
    """Without `-o` the engine's own defaults hold."""
    assert parse_options(Options, {}) == Options()
    assert (Options().mtu, Options().prefix, Options().icc, Options().masquerade) == (None, "eth", True, True)


def test_option_is_refused_when_unknown() -> None:
    """An unknown option is named, with the nearest that are known though none is near."""
    with pytest.raises(InvalidOption, match='"nonsense"') as caught:
        parse_options(Options, {"nonsense": "1"})
    _, _, nearest = str(caught.value).partition("the nearest known are ")
    known = {name for option in declared(Options).values() for name in option.names}
    assert len(nearest.split(", ")) == 3 and known.issuperset(nearest.split(", "))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mtuu", "mtu"),
        ("com.docker.network.driver.mtuu", MTU),
        ("com.docker.network.bridge.enable_icct", "com.docker.network.bridge.enable_icc"),
        ("enable_icc", "com.docker.network.bridge.enable_icc"),
    ],
)
def test_option_refusal_names_the_nearest_when_nearly_right(typed: str, meant: str) -> None:
    """A near miss is answered with what was meant."""
    with pytest.raises(InvalidOption) as caught:
        parse_options(Options, {typed: "1"})
    assert str(caught.value) == f'unknown network option "{typed}"; did you mean "{meant}"?'


@pytest.mark.parametrize("name", ["x" * 200, "a\nb", "tab\there", "\x1b[31mred"])
def test_option_refusal_stays_one_short_line_when_the_name_is_odd(name: str) -> None:
    """Whatever was typed, the sentence is short and one line."""
    with pytest.raises(InvalidOption) as caught:
        parse_options(Options, {name: "1"})
    assert len(str(caught.value)) < 600 and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mtu", "67"),
        ("mtu", "65536"),
        ("mtu", "-1"),
        ("mtu", "1e3"),
        ("mtu", ""),
        ("mtu", "1500 "),
        ("mtu", "٣٠٠٠"),
        ("mtu", "9" * 200),
        ("com.docker.network.bridge.enable_icc", "yes"),
        ("com.docker.network.bridge.enable_icc", ""),
        ("com.docker.network.bridge.name", "sixteen-letters-"),
        ("com.docker.network.bridge.name", "a/b"),
        ("com.docker.network.bridge.name", ".."),
        ("com.docker.network.bridge.name", 'a"b'),
        ("com.docker.network.bridge.name", "a\n"),
        ("com.docker.network.container_iface_prefix", "thirteen-long"),
        ("com.docker.network.bridge.host_binding_ipv4", "300.0.0.1"),
        ("com.docker.network.bridge.host_binding_ipv4", "1"),
        ("com.docker.network.bridge.host_binding_ipv4", ""),
        ("com.docker.network.bridge.host_binding_ipv6", "127.0.0.1"),
        ("com.docker.network.bridge.host_binding_ipv6", "fe80::/64"),
    ],
)
def test_option_is_refused_when_its_value_is_wrong(name: str, value: str) -> None:
    """A wrong value is refused by option, value and what is allowed."""
    with pytest.raises(InvalidOption, match="allowed: ") as caught:
        parse_options(Options, {name: value})
    assert f'option "{name}"' in str(caught.value)
    assert value[:61].strip() in str(caught.value) and len(str(caught.value)) < 300


def test_option_is_taken_twice_when_both_names_say_the_same() -> None:
    """Both names of one option may stand together if they agree."""
    assert parse_options(Options, {MTU: "1400", "mtu": "1400"}).mtu == 1400


@pytest.mark.parametrize("backend", NAMES)
def test_values_that_the_built_in_drivers_take_for_none_are_none(backend: str) -> None:
    """An MTU of 0 and an empty name, such as a compose file has whose variable is not set; nothing else is let by."""
    kind = backend_named(backend).Options
    empty = {
        "bridge": {MTU: "0", "com.docker.network.bridge.name": "", "com.docker.network.container_iface_prefix": ""},
        "macvlan": {"mtu": "0", "parent": "", "macvlan_mode": ""},
        "ipvlan": {"mtu": "0", "parent": "", "ipvlan_mode": "", "ipvlan_flag": ""},
    }
    assert parse_options(kind, empty[backend]) == kind()
    for key, text in ((MTU, ""), ("com.docker.network.container_iface_prefix", " ")):
        with pytest.raises(InvalidOption):
            parse_options(kind, {key: text})


def test_option_is_refused_when_both_names_disagree() -> None:
    """Two names of one option with different values are refused, both named."""
    with pytest.raises(InvalidOption) as caught:
        parse_options(Options, {MTU: "1400", "mtu": "1500"})
    assert MTU in str(caught.value) and '"mtu"' in str(caught.value)


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_booleans_are_those_of_the_engine(text: str) -> None:
    """What the engine's own drivers take for true is true."""
    assert parse_options(Options, {"com.docker.network.bridge.enable_icc": text}).icc is True


def test_host_binding_is_read_as_an_address() -> None:
    """A host binding of each family is an address."""
    read = parse_options(
        Options,
        {
            "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
            "com.docker.network.bridge.host_binding_ipv6": "fd00::1",
        },
    )
    assert (read.host_binding4, read.host_binding6) == (IPAddress("127.0.0.1"), IPAddress("fd00::1"))


@pytest.mark.parametrize("backend", NAMES)
def test_every_declared_option_has_a_meaning(backend: str) -> None:
    """An option that nobody explains, or whose default is not shown, does not exist."""
    options = declared(backend_named(backend).Options)
    assert options
    for name, option in options.items():
        assert option.names and len(option.meaning) > 10 and option.default, name


@pytest.mark.parametrize("backend", NAMES)
def test_option_names_are_declared_once(backend: str) -> None:
    """No name stands for two options."""
    names = [name for option in declared(backend_named(backend).Options).values() for name in option.names]
    assert len(names) == len(set(names))
