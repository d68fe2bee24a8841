"""One new token at a time: the kernel started directly, and the raw rows that it leaves."""

import copy
import functools
import pickle
from types import NoneType

import pytest
import torch
from tiny import make_loud, tiny
from torch import nn

import headway
from headway import KVShift, SelectiveAttention
from headway.hosts.host_pass import find_positions
from headway.mechanisms.base import Dims
from headway.mechanisms.compose import AttentionMechanisms
from headway.mechanisms.context import QKV, Context
from headway.mechanisms.fused import FusedPrologue
from headway.mechanisms.state import DecodeState

pytest.importorskip("triton")
from headway.ops import token_launch
from headway.ops.fused_prologue import fused_prologue
from headway.ops.prologue_launch import Learned, Numbers, Surroundings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PAIR = [KVShift(init="identity"), SelectiveAttention(init="identity")]
HEADS, GROUPS, WIDTH, LENGTH, BATCH = 4, 2, 8, 7, 2


def loud_mechanisms():
    torch.manual_seed(0)
    dims = Dims(
        hidden_size=HEADS * WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=GROUPS,
        head_dim=WIDTH,
    )
    made = AttentionMechanisms(PAIR, dims, 0).to(DEVICE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return made


def drawn(length, batch=BATCH, dtype=torch.float32, wide=False):
    """Raw projections; `wide` ones stand in one piece, as of a matrix for all three."""
    counts = (HEADS, GROUPS, GROUPS)
    if wide:
        whole = torch.randn(batch, length, sum(counts), WIDTH, device=DEVICE).to(dtype)
        return QKV(*(x.transpose(1, 2) for x in whole.split(counts, dim=2)))
    made = (torch.randn(batch, length, n, WIDTH, device=DEVICE).to(dtype) for n in counts)
    return QKV(*(x.transpose(1, 2) for x in made))


def angles(length, dtype=torch.float32):
    phases = torch.randn(1, length, WIDTH // 2, device=DEVICE)
    phases = torch.cat([phases, phases], dim=-1)
    return phases.cos().to(dtype), phases.sin().to(dtype)


def turned(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("static", [True, False])
@torch.no_grad()
def test_rows_are_left_as_the_reference_leaves_them(static, wide):
    mechanisms = loud_mechanisms()
    fused = FusedPrologue(mechanisms, "triton")
    raw, (cos, sin) = drawn(LENGTH, wide=wide), angles(LENGTH)
    positions = torch.arange(LENGTH, device=DEVICE).expand(BATCH, LENGTH)
    ours, theirs = DecodeState(static), DecodeState(static)
    # A prompt of two, single tokens, the batch turned round, one token taken back, one more.
    for start, stop in ((0, 2), (2, 3), (3, 4), (4, 5), (5, 6), (5, 7), (6, 7)):
        part = QKV(*(x[:, :, start:stop] for x in raw))
        at, c, s = positions[:, start:stop], cos[:, start:stop], sin[:, start:stop]
        found = fused(part, at, ours, c, s)
        q, k, v = mechanisms.prologue(part, Context(positions=at, state=theirs))
        expected = QKV(turned(q, c, s), turned(k, c, s), v)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        for name, rows in theirs.rows.items():
            assert torch.equal(ours.rows[name], rows), name
        if stop == 4:
            for state in (ours, theirs):
                state.select(torch.tensor([1, 0], device=DEVICE))
        if stop == 5 and not static:
            for state in (ours, theirs):
                state.record = True
        if stop == 6 and not static:
            for state in (ours, theirs):
                state.crop(1)


@torch.no_grad()
def test_static_rows_stay_where_they_are():
    fused, state = FusedPrologue(loud_mechanisms(), "triton"), DecodeState(True)
    where = None
    for t in range(3):
        at = torch.full((BATCH, 1), t, device=DEVICE)
        fused(drawn(1), at, state, *angles(1))
        places = {name: rows.data_ptr() for name, rows in state.rows.items()}
        assert where in (None, places)
        where = places


class Recorder:
    """Stands for Triton's kernel: notes who is compiled and who is started directly."""

    def __init__(self):
        self.compiled, self.started = [], []

    def __getitem__(self, grid):
        return lambda *given, **named: self.compiled.append((grid, given, named)) or Compiled(self)


class Compiled:
    def __init__(self, recorder):
        self.recorder = recorder

    def __getitem__(self, grid):
        return lambda *given: self.recorder.started.append((grid, given))


def inputs(batch=BATCH, dtype=torch.float32, wide=False, before=True, replaces=False, learned=None):
    q, k, v = drawn(1, batch, dtype, wide)
    held = drawn(1, batch, dtype)
    numbers = [(GROUPS, 2), (GROUPS, 2), (HEADS, WIDTH), (1,), (GROUPS, WIDTH), (1,)]
    made = Learned(*(torch.rand(*n, device=DEVICE, dtype=learned) for n in numbers))
    around = Surroundings(
        torch.zeros(batch, 1, dtype=torch.long, device=DEVICE),
        *angles(1, dtype),
        held.k if before else None,
        held.v if before else None,
    )
    return QKV(q, k, v), made, around, Numbers(GROUPS, 0.5, replaces_rows=replaces)


def test_a_compiled_kernel_is_started_again_only_where_it_fits(monkeypatch):
    kernel = Recorder()
    monkeypatch.setattr(token_launch, "token_kernel", kernel)
    launch = token_launch.TokenLaunch()
    launch(*inputs())
    assert (len(kernel.compiled), len(kernel.started)) == (1, 0)
    given = inputs(wide=True)
    found = launch(*given)
    assert (len(kernel.compiled), len(kernel.started)) == (1, 1), "strides and addresses are free"
    (grid, arguments) = kernel.started[0]
    assert grid == (BATCH, 3, 1)
    assert arguments[:3] == given[0]
    assert [x.data_ptr() for x in arguments[3:6]] == [x.data_ptr() for x in found]


@pytest.mark.parametrize(
    "other",
    [
        {"batch": 3},
        {"dtype": torch.bfloat16},
        {"learned": torch.bfloat16},
        {"before": False},
        {"replaces": True},
    ],
    ids=str,
)
def test_another_kind_of_launch_is_compiled_anew(other, monkeypatch):
    kernel = Recorder()
    monkeypatch.setattr(token_launch, "token_kernel", kernel)
    launch = token_launch.TokenLaunch()
    for given, count in (({}, 1), (other, 2), (other, 2), ({}, 3)):
        launch(*inputs(**given))
        assert len(kernel.compiled) == count


def test_the_kernels_take_their_arguments_in_the_order_of_the_launch(monkeypatch):
    from headway.ops.prologue_kernels import FREE, forward_kernel

    kernel = Recorder()
    monkeypatch.setattr(token_launch, "token_kernel", kernel)
    token_launch.TokenLaunch()(*inputs())
    _, given, named = kernel.compiled[0]
    names = forward_kernel.fn.__code__.co_varnames[: forward_kernel.fn.__code__.co_argcount]
    assert len(given) == len(FREE)
    assert list(names[len(FREE) :]) == [n for n in named if n != "num_warps"]


@torch.no_grad()
def test_both_ways_to_start_give_the_same():
    given = inputs(wide=True)
    direct = token_launch.TokenLaunch()(*given)
    for a, b in zip(direct, fused_prologue(*given), strict=True):
        assert torch.equal(a, b)


def test_copies_compile_anew(monkeypatch):
    monkeypatch.setattr(token_launch, "token_kernel", Recorder())
    launch = token_launch.TokenLaunch()
    launch(*inputs())
    assert launch.start is not None
    assert copy.deepcopy(launch).start is None
    assert pickle.loads(pickle.dumps(launch)).start is None


def test_results_stand_apart():
    # Views of one piece would be copied by the compiler, and would keep each other alive.
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            (q, k, v), *rest = inputs()
            found = fused_prologue((q.requires_grad_(grad), k, v), *rest)
        assert len({x.untyped_storage().data_ptr() for x in found}) == 3


def test_what_a_traced_step_reads_of_us_is_plain(monkeypatch):
    # torch.compile looks at any other kind of attribute again before every step.
    monkeypatch.setenv("HEADWAY_OPS", "triton")
    plain = (bool, int, float, str, NoneType, nn.Module)
    for layer in make_loud(headway.attach(tiny("llama"), PAIR)).model.layers:
        parts = layer.self_attn.headway
        assert {"replaced", "needs_lse", "has_epilogue", "has_window"} <= set(vars(parts))
        for module in (parts, parts.fused):
            for name, value in vars(module).items():
                assert name.startswith("_") or isinstance(value, plain), name


def test_the_pass_counts_no_parameter_twice():
    model = headway.attach(tiny("llama"), PAIR)
    names = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len({p.data_ptr() for p in model.parameters()})
    assert not any("fused" in n for n in [*names, *model.state_dict()])


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_a_window_is_read_where_the_family_has_one(model_type):
    attention = headway.attach(tiny(model_type), PAIR).model.layers[0].self_attn
    expected = {"sliding_window": 5} if model_type == "mistral" else {}
    assert attention.interface_options() == expected


def test_given_positions_count_behind_padding():
    given, ones = torch.arange(4).expand(2, 4), torch.ones(2, 4, dtype=torch.long)
    ask = functools.partial(find_positions, 2, 4, given.device, None)
    assert torch.equal(ask(ones, given), given)
    padded = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    assert ask(padded, given).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert ask(padded, None).tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
