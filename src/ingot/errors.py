"""Every error ingot raises on purpose. Each says what was asked, what was found and what mends it.

IngotError
├── RequestError          400  a field of a request is outside what the engine can honour
├── UnknownModelError     404  no served model has that name
├── QueueFullError        429  the bounded queue is full; nothing was started
├── UnavailableError      503  the server is loading, restarting or stopping and takes no request now
├── ExecutorDiedError     503  the process that runs the engine went away
├── DeadlineError         504  the caller's deadline passed before the answer was whole
├── RecipeError                a build option is unknown, out of range or does not fit the others
├── CheckpointError            the checkpoint is damaged, unsafe, incomplete or not to be had
├── UnsupportedModelError      the checkpoint is sound, but not of a family ingot knows
├── QualityError               the engine strays further from the original than the recipe allows
├── EngineError                the engine folder is damaged, foreign or of another version
├── DeploymentError            a repository cannot be rendered as asked, or a person's own file is in the way
├── CapacityError              memory or disk does not suffice, said before the work starts
└── DependencyError            an optional library or server binary is missing
"""

from __future__ import annotations


class IngotError(Exception):
    """Root of the tree. `mend` is the command or field that puts it right, as a full sentence."""

    http_status = 500
    exit_code = 1
    code = "internal_error"

    def __init__(self, message: str, *, mend: str) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.message} {self.mend}"


class RequestError(IngotError):
    """A request field the engine cannot honour. `param` is the field's name as the caller wrote it."""

    http_status = 400
    exit_code = 2
    code = "invalid_request"

    def __init__(self, message: str, *, mend: str, param: str | None = None) -> None:
        super().__init__(message, mend=mend)
        self.param = param


class UnknownModelError(IngotError):
    http_status = 404
    exit_code = 2
    code = "model_not_found"


class QueueFullError(IngotError):
    http_status = 429
    code = "queue_full"


class UnavailableError(IngotError):
    http_status = 503
    code = "unavailable"


class ExecutorDiedError(IngotError):
    http_status = 503
    code = "executor_died"


class DeadlineError(IngotError):
    http_status = 504
    code = "deadline_exceeded"


class RecipeError(IngotError):
    exit_code = 2
    code = "invalid_recipe"


class CheckpointError(IngotError):
    code = "bad_checkpoint"


class UnsupportedModelError(IngotError):
    code = "unsupported_model"


class QualityError(IngotError):
    code = "quality_bound"


class EngineError(IngotError):
    http_status = 503
    code = "engine_mismatch"


class DeploymentError(IngotError):
    exit_code = 2
    code = "invalid_deployment"


class CapacityError(IngotError):
    code = "capacity"


class DependencyError(IngotError):
    code = "missing_dependency"
