//go:build !linux

package harness

import "syscall"

func Jailed(string) *syscall.SysProcAttr { return nil }
