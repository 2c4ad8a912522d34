//go:build !linux

package e2e

import "syscall"

func jailed(string) *syscall.SysProcAttr { return nil }
