"""Products, kernels and memory on a GPU; the same code runs on a CPU at a small size, to see that it works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from refimpl.bench.hvp import Places, picture_problems
from refimpl.bench.report import Found, Part, Session, skipped
from refimpl.bench.timing import device_race, gap

LARGE, SMALL, LARGEST, CHECKED = 1024, 128, 3200, 16
NEEDS = "needs --device cuda"


class Row(NamedTuple):
    """What was measured at one batch size.

    seconds : of one call by route. kernels : of one call (on a CPU: operations). peaks : bytes above what was there,
    of a gradient and of a gradient with one product. missing : routes that could not be taken, with the reason.
    """

    batch: int
    layout: str
    precision: str
    seconds: dict[str, float]
    kernels: dict[str, int]
    peaks: dict[str, int]
    missing: dict[str, str]


def routes(
    build: Callable[[], Places], device: str, only: tuple[str, ...] = ()
) -> tuple[dict[str, Callable[[], Any]], dict[str, str], Places]:
    """Every way to a product of one network (or those in ``only``, and the gradient), ready to be called; those that
    cannot be taken; and the network. ``build`` makes it: what is captured has a module of its own, since it puts the
    statistics back that the graphs of the others refer to."""
    import torch

    from refimpl.problems.captured import CapturedProblem

    kept, plain, x, vectors = places = build()
    v, missing, cuda = vectors[0], dict[str, str](), device.startswith("cuda")
    point, forward = kept.at(x), plain.at(x)
    found: dict[str, Callable[[], Any]] = {
        "gradient": lambda: plain.at(x).gradient,
        "kept": lambda: point.hvp(v),
        "func": lambda: forward.hvp(v),
        "ggn": lambda: point.ggnvp(v),
    }
    if not only or "captured" in only:
        try:
            graph = CapturedProblem(build().kept, products=("hvp",), capture=cuda).at(x)
            graph.hvp(v)
            found["captured"] = lambda: graph.hvp(v)
        except (RuntimeError, ValueError) as error:
            missing["captured"] = _first_line(error)
    if (not only or "compiled" in only) and cuda:
        # The route that Torch supports: the derivative inside what is compiled, from nothing each time.
        gradient = torch.func.grad(lambda y: plain.evaluation(x, None)._plain_loss(y))
        product = torch.compile(lambda y, u: torch.func.vjp(gradient, y)[1](u)[0])
        try:
            product(x, v)
            found["compiled"] = lambda: product(x, v)
        except Exception as error:  # the compiler's errors have many types
            missing["compiled"] = _first_line(error)
    elif not only:
        missing["compiled"] = "compiled on a CUDA device only: it takes minutes on a CPU and gains nothing there"
    return {name: way for name, way in found.items() if not only or name in ("gradient", *only)}, missing, places


def measure(
    session: Session, batch: int, *, channels_last: bool = False, tf32: bool = True, only: tuple[str, ...] = ()
) -> Row:
    """Time, count and weigh every route (or those in ``only``, and the gradient) at one batch size."""
    sizes = _sizes(session, batch)
    with precision(tf32):
        build = partial(picture_problems, **sizes, device=session.device, count=1, channels_last=channels_last)
        ways, missing, places = routes(build, session.device, only)
        seconds = device_race(ways, session.rounds, session.device, warm=1 if session.quick else 3)
        counted = ways if not session.quick else {n: w for n, w in ways.items() if n in ("gradient", "kept")}
        kernels = {name: kernels_of(way, session.device) for name, way in counted.items()}
        del ways
        peaks = {"gradient": peak(places, session.device, 0), "product": peak(places, session.device, 1)}
    layout = "NHWC" if channels_last else "NCHW"
    row = Row(sizes["batch"], layout, "tf32" if tf32 else "fp32", seconds, kernels, peaks, missing)
    base = seconds["gradient"]
    shown = ", ".join(
        f"{name} {1e3 * t:.2f} ms = {t / base:.2f} ({kernels.get(name, '-')})" for name, t in seconds.items()
    )
    session.note(f"batch {row.batch}, {layout}, {row.precision}; time, in gradients (kernels): {shown}")
    session.note(f"  peak: gradient {1e-9 * peaks['gradient']:.3f} GB, with a product {1e-9 * peaks['product']:.3f} GB")
    for name, reason in missing.items():
        session.note(f"  {name}: {reason}")
    return row


def errors(session: Session) -> dict[str, float]:
    """Every route against the kept graph in float64 on a small batch, softplus."""
    return session.once("gpu errors", lambda: _errors(session))


def _errors(session: Session) -> dict[str, float]:
    sizes = _sizes(session, CHECKED)
    knobs: dict[str, Any] = {"dtype": "float64", "activation": "softplus", "count": 1}
    ways, _, _ = routes(partial(picture_problems, **sizes, **knobs, device=session.device), session.device)
    expected = ways["kept"]()
    found = {name: gap(way(), expected) for name, way in ways.items() if name not in ("gradient", "ggn")}
    session.note("float64 errors: " + ", ".join(f"{name} {error:.1e}" for name, error in found.items()))
    return found


@contextmanager
def precision(tf32: bool) -> Iterator[None]:
    """TensorFloat-32 in convolutions and matrix products, or neither; cuDNN chooses its algorithms by trying."""
    import torch

    cudnn, cublas = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32 = cublas.allow_tf32 = tf32
    cudnn.benchmark = True
    try:
        yield
    finally:
        cudnn.allow_tf32, cublas.allow_tf32, cudnn.benchmark = before


def kernels_of(way: Callable[[], Any], device: str) -> int:
    """Kernels that one call launches; on a CPU the operations it asks for."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    cuda = device.startswith("cuda")
    way()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as seen:
        way()
        if cuda:
            import torch

            torch.cuda.synchronize()
    if cuda:
        return sum(event.device_type == DeviceType.CUDA for event in seen.events())
    return sum(event.name.startswith("aten::") for event in seen.events())


def peak(places: Places, device: str, products_: int) -> int:
    """Bytes above what was there before, at the worst moment of a plain gradient or of a gradient and a product."""
    kept, plain, x, vectors = places

    def job() -> Any:
        if not products_:
            return plain.at(x).gradient
        point = kept.at(x)
        return point.gradient, point.hvp(vectors[0])

    if not device.startswith("cuda"):
        from refimpl.problems.graph_memory import peak_bytes

        return int(peak_bytes(job))
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    job()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def products(session: Session) -> Found:
    """G16: a large batch without a graph of launches, a small one with."""
    names = ("kept graph / gradient, large batch", "captured or compiled / gradient, batch 128",
             "eager / captured, batch 128")  # fmt: skip
    if _elsewhere(session):
        return dict.fromkeys(names, skipped(NEEDS))
    off = errors(session)
    large = measure(session, LARGE, only=("kept",))
    small = measure(session, SMALL)
    fast = {name: small.seconds[name] for name in ("captured", "compiled") if name in small.seconds}
    parts = {names[0]: Part(large.seconds["kept"] / large.seconds["gradient"], off["func"])}
    if not fast:
        reason = "; ".join(f"{name}: {why}" for name, why in small.missing.items())
        return {**parts, names[1]: skipped(reason), names[2]: skipped(reason)}
    best = min(fast, key=fast.__getitem__)
    parts[names[1]] = Part(fast[best] / small.seconds["gradient"], off.get(best, float("inf")))
    if "captured" not in fast:
        return {**parts, names[2]: skipped(small.missing["captured"])}
    return {**parts, names[2]: Part(small.seconds["kept"] / small.seconds["captured"], off["captured"])}


def memory(session: Session) -> Found:
    """G17: the peak of a product, and that of the largest batch."""
    names = ("peak / gradient's peak", "gigabytes, batch 3200")
    if _elsewhere(session):
        return dict.fromkeys(names, skipped(NEEDS))
    row = measure(session, LARGEST, only=("kept",))
    ratio = row.peaks["product"] / row.peaks["gradient"]
    return {names[0]: Part(ratio), names[1]: Part(1e-9 * row.peaks["product"])}


def _sizes(session: Session, batch: int) -> dict[str, Any]:
    if session.quick:
        return {"batch": min(batch, 4), "width": 4}
    return {"batch": batch, "width": 64}


def _elsewhere(session: Session) -> bool:
    # ``twin`` asks for the small run on the CPU.
    return not session.device.startswith("cuda") and not session.knobs.get("twin")


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
