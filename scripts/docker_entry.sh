#!/bin/bash
# Runs a command of the image with ROS 2, the workspace and the environment of bev-runtime set up.
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /opt/bev_ws/local_setup.bash
site="$(/opt/bev_env/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
# ros2 itself runs on the system's Python; launch files look into bags with bev_runtime.
export PYTHONPATH="${site}${PYTHONPATH:+:${PYTHONPATH}}"
exec "$@"
