"""Weights that come to a device while they are used, for models that do not fit there.

Every parameter has a home, in memory or in a file (`paging.py`).  When a module is called, or a weight is read, its
parameters are copied to the device; those that were not used for longest go home when the place is needed.  Nothing is
written into a copy, so going home is forgetting it.  The device may be the CPU: then copies are in memory, too, and the
result is that of a job without them, bit for bit.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from neuromeld.runtime.paging import UsedPages, drop_pages

SMALL = 1024
"""What takes a smaller part of a window than this one, as norms do, is not worth the place that it would make."""

LOOK_AHEAD = 16
"""Modules that are looked at for one to fetch before it is called."""


class DeviceWindow:
    """The part of the weights that is on a device.

    capacity    bytes of weights that may be there at once, at least those of the largest module that is called whole
    peak_bytes  bytes that were there at most
    drops_pages whether homes are files whose pages are to leave memory once they are copied
    """

    def __init__(self, device: torch.device, capacity: int, *, drops_pages: bool = False) -> None:
        self.capacity, self.drops_pages = capacity, drops_pages
        self.device = torch.empty(0, device=device).device  # with its number
        self.peak_bytes = self._held_bytes = 0
        self._used_pages = UsedPages()
        self._homes: OrderedDict[nn.Parameter, Tensor] = OrderedDict()
        self._following: WeakKeyDictionary[nn.Module, ref[nn.Module]] = WeakKeyDictionary()
        self._last: ref[nn.Module] | None = None
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def use(self, module: nn.Module) -> None:
        """Bring the module's own parameters, and on a card begin to bring those of a module that usually follows."""
        own = _own(module)
        if not own:
            return
        if self._side is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._side)
        for parameter in own:
            self.fetch(parameter)
        if self._side is not None:
            self._learn(module)
            if not torch.is_grad_enabled():  # a backward pass needs the layer that is there
                self._prefetch(module, self._side)

    def fetch(self, parameter: nn.Parameter, copy: Callable[[Tensor], Tensor] | None = None) -> None:
        """Bring a parameter, and let others go home where there is no place for it."""
        if parameter in self._homes:
            self._homes.move_to_end(parameter)
            return
        if parameter.device == self.device and self.device.type != "cpu":
            return  # of a module that was made of values on the device
        while self._held_bytes + parameter.nbytes > self.capacity:
            oldest = next((held for held in self._homes if held.nbytes * SMALL > self.capacity), None)
            if oldest is None:
                break
            self.send_home(oldest)
        home = parameter.data
        self._homes[parameter] = home
        parameter.data = copy(home) if copy else home.to(self.device, copy=True)
        self._held_bytes += home.nbytes
        self.peak_bytes = max(self.peak_bytes, self._held_bytes)
        if self.drops_pages:
            self._used_pages.add(home)

    def send_home(self, *parameters: nn.Parameter) -> None:
        """Forget the copies of parameters; of all where none are named."""
        for parameter in parameters or tuple(self._homes):
            home = self._homes.pop(parameter, None)
            if home is not None:
                parameter.data = home
                self._held_bytes -= home.nbytes

    def _learn(self, module: nn.Module) -> None:
        last = self._last() if self._last is not None else None
        if last is not None:
            self._following[last] = ref(module)
        self._last = ref(module)

    def _prefetch(self, module: nn.Module, side: "torch.cuda.Stream") -> None:
        """Copy, on a stream of its own, the next module that is not there and has room beside those up to it."""
        main, needed, following = torch.cuda.current_stream(self.device), _bytes(module), module

        def copy(home: Tensor) -> Tensor:
            with torch.cuda.stream(side):
                found = home.to(self.device, non_blocking=True)
            found.record_stream(main)
            return found

        for _ in range(LOOK_AHEAD):
            known = self._following.get(following)
            following = (known and known()) or module
            needed += _bytes(following)
            if following is module or needed > self.capacity:
                return
            missing = any(parameter not in self._homes for parameter in _own(following))
            for parameter in _own(following):
                self.fetch(parameter, copy)
            if missing:
                return


def _own(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module._parameters.values() if parameter is not None]


def _bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in _own(module))


_current: ContextVar[DeviceWindow | None] = ContextVar("device_window", default=None)


@contextmanager
def streaming(window: DeviceWindow | None) -> Iterator[None]:
    """Let all models inside be seen through a window; with None they lie where they compute."""
    if window is None:
        yield
        return

    def before(module: nn.Module, _: Any) -> None:
        window.use(module)

    if window.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(window.device)
    token, handle = _current.set(window), register_module_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()
        _current.reset(token)
        window.send_home()


def is_streaming() -> bool:
    """Tell whether weights come to a device while they are used."""
    return _current.get() is not None


def device_peak() -> int:
    """Return the bytes that were on the device at most: of the CPU, those of weights alone."""
    window = _current.get()
    assert window is not None
    return torch.cuda.max_memory_allocated(window.device) if window.device.type == "cuda" else window.peak_bytes


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a model computes on."""
    window = _current.get()
    return next(model.parameters()).device if window is None else window.device


@contextmanager
def says_its_device(model: nn.Module) -> Iterator[None]:
    """Inside, a streamed model says that it lies where it computes: `generate` moves there what it is given."""
    window = _current.get()
    if window is None:
        yield
        return
    kind: Any = type(model)
    kind.device = property(lambda _: window.device)
    try:
        yield
    finally:
        del kind.device


def on_device(x: Tensor) -> Tensor:
    """Return a tensor where models compute, if they are seen through a window."""
    window = _current.get()
    if window is None or x.device == window.device:
        return x
    found = x.to(window.device)
    if window.drops_pages:
        drop_pages([x])
    return found


def off_device(x: Tensor) -> Tensor:
    """Return a tensor that waits: in memory, if models are seen through a window."""
    return x if _current.get() is None else x.cpu()


def used(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter whose values are where models compute."""
    window = _current.get()
    if window is not None:
        window.fetch(parameter)
    return parameter


def at_home(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter whose values are in its home."""
    window = _current.get()
    if window is not None:
        window.send_home(parameter)
    return parameter


def forget_copies() -> None:
    """Send all parameters home, of models that are not needed any longer, too."""
    window = _current.get()
    if window is not None:
        window.send_home()


def home_device(parameter: Tensor) -> torch.device:
    """Return where a parameter lies that takes the place of this one."""
    return parameter.device if _current.get() is None else torch.device("cpu")


def move_buffers(model: nn.Module) -> None:
    """Bring what is no parameter to where models compute: it is small, and stays there."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = on_device(buffer)
