"""The study: plans of nets, the engines that train them, and their results."""
