# GPUs through Docker. Checkpoints, images and results stay outside the image and are mounted:
#   docker build -t posterior-sampling . && mkdir -p results cache
#   docker run --rm --gpus all --shm-size 2g --user "$(id -u):$(id -g)" -v "$PWD/results:/app/results" \
#       -v "$PWD/cache:/app/cache" -v /data/ffhq256:/app/ffhq256:ro -v /data/ffhq_10m.pt:/app/ffhq_10m.pt:ro \
#       posterior-sampling predict --config configs/dps/super_resolution.yaml
FROM pytorch/pytorch:2.9.1-cuda12.8-cudnn9-runtime

# torch and torchvision are the base image's; the versions are those that the tests ran with beside torch 2.9.1
RUN pip install --no-cache-dir \
    pytorch-lightning==2.5.5 torchmetrics==1.7.4 lpips==0.1.4 clean-fid==0.1.35 numpy==2.1.3 scipy==1.14.1 \
    pillow==11.0.0 "jsonargparse[signatures]==4.53.0" safetensors==0.5.3 matplotlib==3.9.4 rich==13.9.4 pyyaml==6.0.2 \
    dicebear-core==10.7.0 dicebear-styles==10.6.0 resvg-py==0.5.0 \
    && useradd --uid 1001 --create-home sampler

ENV MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /app
COPY lightning_cli.py ./
COPY posterior ./posterior
COPY datamodules ./datamodules
COPY benchmarks ./benchmarks
COPY configs ./configs
USER 1001
ENTRYPOINT ["python", "lightning_cli.py"]
CMD ["--help"]
