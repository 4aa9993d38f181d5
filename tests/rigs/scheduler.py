"""The scheduler of pytest-xdist for groups, mended for a worker that ends in the middle of a test.

That of pytest-xdist 3.8 then hands out everything again that the worker had done, as pieces without a test. A worker
that got such a piece waits for ever for the next one before it runs its last test, and so does the new worker if it
gets a single test. The test in which the worker ended is also run again and again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadGroupScheduling

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

#: A worker runs a test when it knows the next one, or that there is none.
_AHEAD = 3


class Groups(LoadGroupScheduling):  # type: ignore[misc] # pytest-xdist has no types
    """Gives each worker a group or a test at a time."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Hand out what a worker did not do, except for the test in which it ended: return that one."""
        workload = self.assigned_work.pop(node)
        left = {scope: [test for test, is_done in unit.items() if not is_done] for scope, unit in workload.items()}
        left = {scope: tests for scope, tests in left.items() if tests}
        if not left:
            return None
        crashed: str = next(iter(left.values())).pop(0)
        self.workqueue.update({scope: dict.fromkeys(tests, False) for scope, tests in left.items() if tests})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        if node.shutting_down or node not in self.registered_collections:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) < _AHEAD:
            self._assign_work_unit(node)
        if not self.workqueue:
            node.shutdown()
