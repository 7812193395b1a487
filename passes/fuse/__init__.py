"""Many nodes become one."""
