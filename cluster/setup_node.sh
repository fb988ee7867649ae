#!/usr/bin/env bash
# Makes a bare machine a node of the cluster; called by setup_commands of aws.yaml, gcp.yaml and on_prem.yaml:
#
#   bash setup_node.sh cpu|gpu|auto [SERVER:/EXPORT]
#
# It needs Debian or Ubuntu only for the mount. Run again, it changes nothing that is right.
#   cpu, gpu, auto    torch's build: without CUDA, with it, or as `nvidia-smi` says
#   SERVER:/EXPORT    an NFS export to mount at /shared; without it, /shared is there already
# RAY_VERSION, PYTHON_VERSION (read from the environment): the same on all nodes, whenever they come. Ray refuses another.
set -euo pipefail
ray_version=${RAY_VERSION:-2.60.0}
python_version=${PYTHON_VERSION:-3.12}
kind=${1:-auto}
export_=${2:-}
venv=$HOME/nnopt-venv
source_=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

case $kind in
  cpu | gpu) ;;
  auto) if nvidia-smi > /dev/null 2>&1; then kind=gpu; else kind=cpu; fi ;;
  *) echo "setup_node.sh: cpu, gpu or auto, not '$kind'." >&2; exit 2 ;;
esac

if [ -n "$export_" ] && ! mountpoint -q /shared; then
  command -v mount.nfs4 > /dev/null || { sudo apt-get update -qq && sudo apt-get install -qq -y nfs-common; }
  sudo mkdir -p /shared
  # hard: a server that is away for a while stops the run for as long, and does not tear its files.
  sudo mount -t nfs -o hard,noresvport "$export_" /shared
  sudo chown "$(id -u):$(id -g)" /shared
fi
if ! mkdir -p /shared/runs || [ ! -w /shared/runs ]; then
  echo "setup_node.sh: /shared/runs cannot be written. Runs need a folder that all nodes mount at /shared." >&2
  exit 2
fi

if [ ! -s "$HOME/.ray/auth_token" ]; then
  echo "setup_node.sh: no token in ~/.ray/auth_token. Make it where you call ray up: ray get-auth-token --generate" >&2
  exit 2
fi
chmod 600 "$HOME/.ray/auth_token"

# uv brings the same Python to every image (https://docs.astral.sh/uv).
export PATH=$HOME/.local/bin:$PATH
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -x "$venv/bin/python" ] || uv venv --seed --python "$python_version" "$venv"
if [ "$kind" = cpu ]; then # PyTorch's index of builds without CUDA, a tenth of the size (https://pytorch.org/get-started)
  uv pip install --python "$venv/bin/python" --index-url https://download.pytorch.org/whl/cpu 'torch>=2.10,<2.14'
fi
uv pip install --python "$venv/bin/python" "ray[default]==$ray_version" "$source_"

# Read by every shell on the node, so by `ray start`, `ray exec` and the jobs: what they must agree on.
cat > "$HOME/.nnopt_environment" << END
export PATH="$venv/bin:\$PATH"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0
export NNOPT_RUNS=/shared/runs
export NNOPT_CACHE="$HOME/nnopt-cache"
END
line='. ~/.nnopt_environment'
grep -qxF "$line" "$HOME/.bashrc" 2> /dev/null || echo "$line" >> "$HOME/.bashrc"
"$venv/bin/nnopt" --version
