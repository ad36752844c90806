"""Report turns to OpenTelemetry: spans and metrics of the GenAI conventions.

The `otel` extra installs `opentelemetry-api`. The application installs and configures the SDK. Without an SDK nothing is
recorded.
"""

from convokit.telemetry.telemetry_observer import OpenTelemetryObserver

__all__ = ["OpenTelemetryObserver"]
