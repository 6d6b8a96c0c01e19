"""OpenVINO: an exported graph on a CPU, or what else it drives; what its layers compute in is always known."""
