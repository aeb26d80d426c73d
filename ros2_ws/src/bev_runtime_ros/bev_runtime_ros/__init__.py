"""The ROS 2 node around bev_runtime: the only package of this project that imports rclpy."""
