"""Linear algebra of whole matrices, of which no rule speaks; `work_out_algebra` does it where they are constant."""

from __future__ import annotations

import torch

from lrp_compiler.rules.traits import declare, existing

aten = torch.ops.aten

declare(
    *existing("cholesky"),  # until torch 2.13
    *existing("linalg_matrix_sqrth", "linalg_polar"),  # from torch 2.14 on
    aten.cholesky_inverse.default,
    aten.cholesky_solve.default,
    aten._cholesky_solve_helper.default,
    aten.geqrf.default,
    aten.inverse.default,
    aten._linalg_det.default,
    aten._linalg_eigh.default,
    aten._linalg_eigvals.default,
    aten._linalg_slogdet.default,
    aten._linalg_solve_ex.default,
    aten._linalg_svd.default,
    aten.linalg_cholesky.default,
    aten.linalg_cholesky_ex.default,
    aten.linalg_cross.default,
    aten.linalg_det.default,
    aten.linalg_eig.default,
    aten.linalg_eigh.default,
    aten.linalg_eigvals.default,
    aten.linalg_eigvalsh.default,
    aten.linalg_householder_product.default,
    aten.linalg_inv.default,
    aten.linalg_inv_ex.default,
    aten.linalg_ldl_factor.default,
    aten.linalg_ldl_factor_ex.default,
    aten.linalg_ldl_solve.default,
    aten.linalg_lstsq.default,
    aten.linalg_lu.default,
    aten.linalg_lu_factor.default,
    aten.linalg_lu_factor_ex.default,
    aten.linalg_lu_solve.default,
    aten.linalg_matrix_exp.default,
    aten.linalg_matrix_power.default,
    aten.linalg_pinv.default,
    aten.linalg_pinv.atol_rtol_tensor,
    aten.linalg_qr.default,
    aten.linalg_slogdet.default,
    aten.linalg_solve.default,
    aten.linalg_solve_ex.default,
    aten.linalg_solve_triangular.default,
    aten.linalg_svd.default,
    aten.linalg_svdvals.default,
    aten.logdet.default,
    aten._lu_with_info.default,
    aten.lu_solve.default,
    aten.lu_unpack.default,
    aten.matrix_exp.default,
    aten.orgqr.default,
    aten.ormqr.default,
    aten.triangular_solve.default,
    algebra=True,
)
