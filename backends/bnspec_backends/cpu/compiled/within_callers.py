"""Compilation of functions that only compiled code calls, without machine code of their own.

Each of them is compiled into its callers, so numba's machine code of the function alone would never run. To leave it
out saves a fifth of the time that the kernels take to compile, and changes no instruction of theirs: callers take the
optimized intermediate code, which stays as it is.
"""

from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering

__all__ = ["WithinCallers"]


class _Intermediate(JITCodeLibrary):  # type: ignore[misc]
    """Library of intermediate code, for other libraries to take in."""

    def _finalize_final_module(self) -> None:
        """Check the code, and do not give it to the engine that makes machine code of all it has."""
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):  # type: ignore[misc]
    """Numba's lowering, except that its result has no address."""

    _name = "bnspec_lowering_within_callers"

    def run_pass(self, state: Any) -> bool:
        """Write the intermediate code, and make it known to callers."""
        context, flags = state.targetctx, state.flags
        state.library = _Intermediate(context.codegen(), state.func_id.func_qualname)
        flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        about = lowered.fndesc
        # Numba's table of functions asks for a callable; this one has the address 0, as for any function that has no
        # wrapper for Python.
        named = (about.lookup_module(), about.qualname.split(".")[-1], about.qualname)
        function = _dynfunc.make_function(*named, 0, lowered.env, (state.library,))
        context.insert_user_function(function, about, [state.library])
        state.reload_init.extend(state.library._reload_init)
        state["cr"] = lowered._replace(cfunc=function)
        return True


class WithinCallers(CompilerBase):  # type: ignore[misc]
    """Numba's compiler with `_Lowering` in the place of its own lowering."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_Lowering if step is NativeLowering else step, text) for step, text in passes.passes]
        passes.finalize()
        return [passes]
