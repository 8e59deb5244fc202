# The DGX Spark's kernel. Build it, and either register it with the machine's own JupyterLab and papermill:
#   docker build -t lumo . && lumo kernel install
# or open JupyterLab in it:
#   docker run --gpus all --ipc=host -it --rm -p 127.0.0.1:8888:8888 -v "$PWD":/workspace/lumo lumo
# For `hub:` paths add -v ~/.cache/huggingface:/root/.cache/huggingface:ro, for reports elsewhere -v FOLDER:FOLDER -e LUMO_REPORTS=FOLDER.
#
# NVIDIA's image, because its torch is built for both processors of CUDA 13 machines, the Spark's (GB10, aarch64) and x86: 26.04 has torch
# 2.12 and CUDA 13.2, compiled for sm_120, which the Spark's sm_121 runs. Another tag goes in with --build-arg IMAGE=... Its torch must be
# 2.11 or newer, older than 2.14: 25.12 carries 2.10, 26.06 a 2.13. Not built by the tests.
ARG IMAGE=nvcr.io/nvidia/pytorch:26.04-py3
FROM ${IMAGE}

# NVIDIA's images let products of fp32 round to TF32's 10 bits: a backbone in fp32 may then differ from
# transformers' own logits by more than rounding, and be refused.
ENV TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0

WORKDIR /workspace/lumo

# The image's own torch family, written down as constraints: no dependency below can then make pip replace it with a
# build that isn't made for this GPU.
RUN pip freeze | grep -i '^torch' | sed -E 's/ @ .*//' | while read -r name; do \
      name="${name%%==*}"; \
      echo "${name}==$(python -c "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))" "${name}")"; \
    done > /opt/torch-constraints.txt && \
    grep -q '^torch==' /opt/torch-constraints.txt

# Everything of pyproject.toml's list but torch; tests/test_packaging.py compares the two.
RUN pip install --no-cache-dir --constraint /opt/torch-constraints.txt \
      "transformers>=5.17,<6" \
      "huggingface_hub>=1.31,<3" \
      "peft>=0.20,<1" \
      "tokenizers>=0.22" \
      "safetensors>=0.7" \
      "numpy>=2" \
      "pillow>=11" \
      "soundfile>=0.13" \
      "soxr>=0.5" \
      "pydantic>=2.11" \
      "pyyaml>=6" \
      "jaxtyping>=0.3" \
      "webdataset>=1.0" \
      "papermill>=2.7" \
      "nbconvert>=7.17.1" \
      "ipykernel>=6.30" \
      "ipython>=9" \
      "ipywidgets>=8.1" \
      "matplotlib>=3.10" \
      "jupyterlab>=4.4"

# The extra of the profiles spark and gpu24: SEED-2 draws its pictures with it.
RUN pip install --no-cache-dir --constraint /opt/torch-constraints.txt "diffusers>=0.42,<1"

# --no-deps: lumo asks for torch, and that is the image's
COPY . .
RUN pip install --no-cache-dir --no-deps -e .

# Stops the build if anything above replaced torch after all.
RUN python -c "import importlib.metadata as m; \
want = dict(line.strip().split('==', 1) for line in open('/opt/torch-constraints.txt')); \
assert m.version('torch') == want['torch'], (m.version('torch'), want['torch'])"

# The notebooks ask for the kernel python3, which is this image's too; lumo-spark is its name for a JupyterLab that
# knows several machines.
RUN python -m ipykernel install --sys-prefix --name lumo-spark --display-name "lumo (DGX Spark)"

EXPOSE 8888
CMD ["jupyter", "lab", "--ip=0.0.0.0", "--allow-root", "--no-browser", "notebooks"]
