# The node on a vehicle: CUDA, TensorRT, ROS 2 and bev-runtime in one image.
#
#   x86 (ROS 2 Jazzy):     docker build -t bev-runtime .
#   Jetson (ROS 2 Humble): docker build -t bev-runtime --build-arg BASE_IMAGE=nvcr.io/nvidia/l4t-jetpack:r36.4.0 \
#                                                      --build-arg ROS_DISTRO=humble .
#   docker run --rm --gpus all --network host --ipc host bev-runtime rig:=nuscenes
#   docker run --rm -v "$PWD":/data --entrypoint /opt/bev_env/bin/bev-runtime bev-runtime replay /data/my_bag --out /data/out
#
# --network host and --ipc host let DDS find the other nodes and use shared memory.
ARG BASE_IMAGE=nvcr.io/nvidia/tensorrt:25.06-py3
# hadolint ignore=DL3006
FROM ${BASE_IMAGE}

ARG ROS_DISTRO=jazzy
ENV ROS_DISTRO=${ROS_DISTRO} LANG=C.UTF-8
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl g++ \
    && curl -fsSL https://raw.githubusercontent.com/ros/rosdistro/master/ros.key \
        -o /usr/share/keyrings/ros-archive-keyring.gpg \
    && codename="$(sed -n 's/^UBUNTU_CODENAME=//p' /etc/os-release)" \
    && echo "deb [arch=$(dpkg --print-architecture) signed-by=/usr/share/keyrings/ros-archive-keyring.gpg] http://packages.ros.org/ros2/ubuntu ${codename} main" \
        > /etc/apt/sources.list.d/ros2.list \
    && apt-get update \
    && apt-get install --yes --no-install-recommends \
        python3-colcon-common-extensions python3-venv \
        "ros-${ROS_DISTRO}-ros-base" "ros-${ROS_DISTRO}-vision-msgs" \
        "ros-${ROS_DISTRO}-rmw-cyclonedds-cpp" \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/bev_runtime
COPY . .

# The system's Python, which ROS 2 and TensorRT are built for; their packages are seen from the environment.
# ROS 2's messages are compiled for numpy 1.
# hadolint ignore=DL3013
RUN /usr/bin/python3 -m venv --system-site-packages /opt/bev_env \
    && /opt/bev_env/bin/python -m pip install --no-cache-dir "numpy<2" ".[sim]"

# hadolint ignore=SC1090
RUN source "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && colcon --log-base /tmp/colcon build --base-paths ros2_ws/src --build-base /tmp/build \
        --install-base /opt/bev_ws --packages-select bev_runtime_ros

ENV PATH=/opt/bev_env/bin:${PATH}
RUN useradd --create-home bev
USER bev
ENTRYPOINT ["/opt/bev_runtime/scripts/docker_entry.sh", "ros2", "launch", "bev_runtime_ros", "bev_runtime.launch.py"]
CMD ["--show-args"]
