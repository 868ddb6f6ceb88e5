"""What root asks over the admin socket: state, metrics, reconciliation.

| request | answer |
|---|---|
| GET /status | `answers.Status` |
| GET /networks | a list of `answers.Network` |
| GET /metrics | Prometheus' text format |
| POST /reconcile?dry_run=true | `answers.Reconciliation` |
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from pynetdriver.admin.answers import Difference, Reconciliation
from pynetdriver.admin.metrics import Metrics
from pynetdriver.admin.report import Report
from pynetdriver.errors import InvalidRequest, PynetError, shortened
from pynetdriver.seldom import Seldom
from pynetdriver.server.listener import Bounds
from pynetdriver.watchdog.reconcile import Reconciler

#: Of strangers who may be many, and of root, whose commands wait for a minute.
METRICS_BOUNDS, ADMIN_BOUNDS = Bounds(64, 30), Bounds(64, 600)

Exposition = Callable[[], Awaitable[tuple[bytes, str]]]


def admin_application(report: Report, metrics: Metrics, reconciler: Reconciler) -> web.Application:
    """Make what the admin socket serves."""

    async def get_status(_: web.Request) -> web.Response:
        return _json(await report.status(await metrics.samples()))

    async def get_networks(_: web.Request) -> web.Response:
        return _json(await report.networks())

    async def post_reconcile(request: web.Request) -> web.Response:
        asked = request.query.get("dry_run", "false")
        if asked not in ("true", "false"):
            raise InvalidRequest(f'dry_run is "true" or "false", not "{shortened(asked)}"')
        found, left = await reconciler.reconcile(dry_run=asked == "true")
        differences = [
            Difference(owner=one.owner.short if one.owner else "pynet", what=one.what, mended=one not in left)
            for one in found
        ]
        return _json(Reconciliation(dry_run=asked == "true", differences=differences))

    application = web.Application(middlewares=[_refusals(Seldom())])
    application.router.add_get("/status", get_status)
    application.router.add_get("/networks", get_networks)
    application.router.add_get("/metrics", _metrics(metrics.exposition))
    application.router.add_post("/reconcile", post_reconcile)
    return application


def metrics_application(exposition: Exposition) -> web.Application:
    """Make what the opt-in listener for Prometheus serves."""
    application = web.Application(middlewares=[_refusals(Seldom())])
    application.router.add_get("/metrics", _metrics(exposition))
    return application


def _metrics(exposition: Exposition) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def get_metrics(_: web.Request) -> web.Response:
        body, content_type = await exposition()
        response = web.Response(body=body, headers={"Content-Type": content_type})
        response.force_close()  # kept open it would be one of few
        return response

    return get_metrics


def _refusals(seldom: Seldom) -> Any:
    @web.middleware
    async def refusals(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
        try:
            return await handler(request)
        except PynetError as error:
            return _refusal(str(error), error.status)
        except web.HTTPException as error:
            return _refusal(error.reason, error.status)
        except Exception as error:
            seldom.warning("unexpected failure", asked=shortened(request.path), exc_info=error)
            text = "pynet met an internal error; its log has the details"
            return _refusal(text, 500)

    return refusals


def _refusal(text: str, status: int) -> web.Response:
    return _json({"Err": text, "Error": text}, status)


def _json(answer: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(answer), content_type="application/json")
