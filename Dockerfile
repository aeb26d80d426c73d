# The runtime on the CPU: replay, inspect and check-calib. GPU and ROS 2 images come with the backends and the node.
#   docker build -t bev-runtime .
#   docker run --rm -v "$PWD":/data bev-runtime replay /data/my_bag --out /data/out
FROM python:3.11-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -rf /wheels
RUN useradd --create-home bev
USER bev
ENTRYPOINT ["bev-runtime"]
CMD ["--help"]
