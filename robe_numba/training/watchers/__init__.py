"""Who hears of a run as it goes: progress, TensorBoard, MLPerf's logs."""
