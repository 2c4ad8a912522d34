//go:build !linux

package main

import "io/fs"

// contain does nothing here: what it is for, only Linux has in this form.
func contain() error { return nil }

// ours takes every file for this user's own.
func ours(fs.FileInfo) bool { return true }
