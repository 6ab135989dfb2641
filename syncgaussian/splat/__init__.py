"3D Gaussians: what they are, and how they are drawn (notebooks 02 to 02d)"
from .gaussians import Camera, Gaussians, Projection, eval_sh, look_at, project_gaussians, sh_basis
from .rasterizer import BACKENDS, RasterizerError, Rendering, pick_backend, rasterize
from .gaussian_files import GaussianFileError, load_ply, load_splat, save_ply, save_splat
