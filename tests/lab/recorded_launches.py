"""A recording from compiling to seconds, but for the launch itself, which fills the memory as a GPU would.

A process of its own, for test_timeline.py: kernels that were imported to be interpreted cannot be compiled.
"""

import json

import torch
import triton
import triton.language as tl
from skiplab.anatomy import pretended_gpu
from skiplab.replay import proton, record_timeline, whole
from triton.profiler.flags import flags
from triton.runtime import _allocation, driver

BLOCKS, SMS = 16, 4


@triton.jit
def copied(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if n == 0:
        return
    tl.store(y + at, tl.load(x + at, mask=at < n), mask=at < n)


def words(*numbers):
    return torch.tensor(numbers, dtype=torch.int64).to(torch.int32)


class Launcher:
    """In the place of Triton's: every block is there for 2 us, one each 3 us, at 1.98 GHz."""

    def __init__(self, src, metadata):
        self.size, self.warps = metadata.profile_scratch_size // 4, metadata.num_warps
        self.alignment = metadata.profile_scratch_align

    def __call__(self, x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
        if self.size:
            memory = _allocation._profile_allocator.get()(4 * x * y * z * self.size, self.alignment, stream)
            self.write(memory.view(torch.int32).view(x * y * z, self.size))
        for hook in (enter, leave):
            if hook:
                hook(launch_metadata)

    def write(self, blocks):
        ring = (1 << (self.size // self.warps).bit_length()) // 2
        for number, block in enumerate(blocks):
            begin = 1000 + 3000 * number
            block[:10] = words(0xDEADBEEF, number, number % SMS, 4 * ring * self.warps, begin, 0, begin + 2000, 0, 0, 0)
            block[10 : 10 + self.warps] = 4
            for warp in range(self.warps):
                at = 10 + self.warps + warp * ring
                block[at : at + 4] = words(0, 500, 1 << 31, 500 + 3960)


def load_binary(name, kernel, shared, device):
    loaded.append(name)
    return object(), len(loaded), 32, 0, 1024


loaded: list[str] = []
whole.scope_every_program()
with pretended_gpu("sm_90"):
    driver.active.launcher_cls, driver.active.utils.load_binary = Launcher, load_binary
    x = torch.zeros(4096, device="cuda")
    y = torch.empty_like(x)

    def call():
        copied[(BLOCKS,)](x, y, 4096, BLOCK=256)

    call()  # as it is without a recording
    found = [proton.timelines_of(proton.recorded_launches(call)) for _ in range(2)]
    twice = list(record_timeline(lambda: (call(), call())))
    call()
spans = found[1]["copied"].spans
print(json.dumps({
    "timelines": [
        {name: [one.clock, len(one.spans), one.seconds] for name, one in several.items()} for several in found
    ],
    "names": sorted({one.name for one in spans}), "sms": sorted({one.sm for one in spans}), "twice": twice,
    "loaded": len(loaded), "left on": flags.instrumentation_on or bool(triton.knobs.runtime.launch_enter_hook.calls),
}))  # fmt: skip
