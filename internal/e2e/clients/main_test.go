package clients_test

import (
	"testing"

	"github.com/teamtoken/teamtoken/internal/e2e/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
